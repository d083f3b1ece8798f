"""What it costs to bring a network to a point of a loss landscape: in place, by load_state_dict, and built anew.

    uv run python benchmarks/landscape.py

Moves a second, one thread, each way in turn; how they compare is what counts.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import models.registry
from jobs.diagnostics.plane import Plane

POINT = (0.3, -0.2)
SECONDS = 2.0


def built(name: str) -> nn.Module:
    network: nn.Module = models.registry.build(name, {}, input_shape=(3, 32, 32), classes=10)
    return network.to(memory_format=torch.channels_last).eval()


@torch.no_grad()
def moved_state(network: nn.Module, plane: Plane) -> dict[str, Tensor]:
    """The state dict of the network at the point."""
    alpha, beta = POINT
    state = dict(network.state_dict())
    moved = [name for name, parameter in network.named_parameters() if parameter.ndim >= 2]
    for name, origin, first, second in zip(moved, plane.origin, plane.first, plane.second, strict=True):
        state[name] = origin + alpha * first + beta * second
    return state


def rate(move: Callable[[], object]) -> float:
    """How often a second."""
    move()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        move()
        count += 1
    return count / (time.perf_counter() - began)


def compare(name: str) -> str:
    """A row of the table."""
    network = built(name)
    plane = Plane(network, seed=0)
    in_place = rate(lambda: plane.losses([POINT], lambda: 0.0))
    loaded = rate(lambda: network.load_state_dict(moved_state(network, plane)))
    anew = rate(lambda: built(name).load_state_dict(moved_state(network, plane)))
    return (
        f"| {name} | {in_place:,.0f} | {loaded:,.0f} | {in_place / loaded:.0f} | {anew:,.0f} | {in_place / anew:.0f} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    print("| network | in place, 1/s | load_state_dict, 1/s | ratio | built anew, 1/s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("resnet-20", "resnet-56", "resnet-110"):
        print(compare(name))


if __name__ == "__main__":
    main()
