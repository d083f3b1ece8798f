"""One step of training: sums that stay on the device, and the optimizers of torch bit for bit."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import identical
from torch import nn

from jobs.optimizer import build_optimizer, update
from jobs.spec import Adam, AdamW, Optimizer, Sgd
from jobs.step import Totals, evaluation_step, training_step

CPU = torch.device("cpu")
OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(), lambda parameters: torch.optim.SGD(parameters, 0.05, 0.9, nesterov=True)),
    "plain sgd": (
        Sgd(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, 0.1, weight_decay=0.1),
    ),
    "adam": (Adam(), lambda parameters: torch.optim.Adam(parameters, 1e-3)),
    "adamw": (
        AdamW(betas=(0.8, 0.9), weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, (0.8, 0.9), weight_decay=0.1),
    ),
}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def batches(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(7, 6, generator=generator), torch.arange(7) % 4) for _ in range(count)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_steps_equal_the_textbook_loop_of_torch(name: str) -> None:
    spec, of_torch = OPTIMIZERS[name]
    ours, theirs = network(), network()
    optimizer, reference, totals = build_optimizer(spec, ours.parameters()), of_torch(theirs.parameters()), Totals(CPU)
    for step, (images, labels) in enumerate(batches()):
        training_step(ours, optimizer, images, labels, "fp32", totals, step)
        reference.zero_grad()
        F.cross_entropy(theirs(images), labels).backward()  # type: ignore[no-untyped-call]
        reference.step()
    assert identical(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("spec", [Sgd(), Adam(), AdamW()], ids=["sgd", "adam", "adamw"])
def test_update_is_the_optimizer_s_own_step(spec: Optimizer) -> None:
    ours, theirs = network(), network()
    optimizer, reference = build_optimizer(spec, ours.parameters()), build_optimizer(spec, theirs.parameters())
    for images, labels in batches():
        changes: list[tuple[nn.Module, Any]] = [(ours, lambda: update(optimizer)), (theirs, reference.step)]
        for one, change in changes:
            one.zero_grad()
            F.cross_entropy(one(images), labels).backward()  # type: ignore[no-untyped-call]
            change()
    assert identical(ours.state_dict(), theirs.state_dict())
    assert identical(optimizer.state_dict(), reference.state_dict())


def test_totals_are_sums_over_images_whatever_the_batches() -> None:
    totals = Totals(CPU)
    logits = torch.randn(10, 4)
    labels = torch.arange(10) % 4
    for rows in (slice(0, 7), slice(7, 10)):
        totals.add(F.cross_entropy(logits[rows], labels[rows]), logits[rows], labels[rows], 0)
    loss, accuracy, bad_step = totals.read(10)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == labels).sum().item() / 10
    assert bad_step is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_step_whose_loss_was_not_finite_is_told(value: float) -> None:
    totals = Totals(CPU)
    for step, loss in enumerate([1.0, 1.0, value, 1.0, math.nan]):
        totals.add(torch.tensor(loss), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), step)
    assert totals.read(10)[2] == 2


def test_the_very_first_step_can_be_the_bad_one() -> None:
    totals = Totals(CPU)
    totals.add(torch.tensor(math.nan), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 0)
    assert totals.read(2)[2] == 0


def test_reset_forgets() -> None:
    totals = Totals(CPU)
    totals.add(torch.tensor(math.nan), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 3)
    totals.reset()
    assert totals.read(2) == (0.0, 0.0, None)


def test_a_million_steps_are_counted_to_the_last_image() -> None:
    totals = Totals(CPU)
    totals.values[1] = 2.0**30  # float32 would no longer see one more
    totals.add(torch.tensor(0.0), torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), 0)
    assert totals.read(1)[1] == 2**30 + 1


def test_evaluation_leaves_the_network_as_it_is_and_counts() -> None:
    one, totals = network(), Totals(CPU)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    images, labels = batches(1)[0]
    evaluation_step(one, images, labels, "fp32", totals)
    assert identical(dict(one.state_dict()), before)
    assert all(parameter.grad is None for parameter in one.parameters())
    assert totals.read(7)[0] == pytest.approx(F.cross_entropy(one(images), labels).item(), rel=1e-6)


def test_bf16_runs_the_network_in_half_and_keeps_its_weights_in_full() -> None:
    one, seen = network(), []
    one.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    optimizer = build_optimizer(Sgd(), one.parameters())
    training_step(one, optimizer, *batches(1)[0], "bf16", Totals(CPU), 0)
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
