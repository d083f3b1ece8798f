"""What a norm of fake tensors returns, forward and backward, is of the types and sizes that torch's kernel gives it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jobs.kernel_fakes import KernelFakeMode

BF16, FP32 = torch.bfloat16, torch.float32
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(4),
    "batch, of no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch, of no parameters": lambda: nn.BatchNorm2d(4, affine=False),
    "batch, of neither": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer": lambda: nn.LayerNorm(8),
    "layer, of no bias": lambda: nn.LayerNorm(8, bias=False),
    "layer, of no parameters": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "group": lambda: nn.GroupNorm(2, 4),
    "group, of no parameters": lambda: nn.GroupNorm(2, 4, affine=False),
}


class Results(TorchDispatchMode):
    """Keeps name, and shape and type of each tensor, of what operators return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, list[tuple[torch.Size, torch.dtype]]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            tensors = [(one.shape, one.dtype) for one in tree_leaves(result) if isinstance(one, Tensor)]
            self.seen.append((str(func), tensors))
        return result


def results(norm: Callable[[], nn.Module], values: torch.dtype, parameters: torch.dtype, fake: bool) -> Any:
    """Of a step in training, and a forward pass in evaluation."""
    with KernelFakeMode() if fake else nullcontext():
        network = made(norm, parameters)
        images = torch.rand(2, 4, 8, 8, dtype=values, requires_grad=True)
        with Results() as seen:
            network(images).sum().backward()
            network.eval()(images)
    return seen.seen


def made(norm: Callable[[], nn.Module], parameters: torch.dtype) -> nn.Module:
    """By the default type: `Module.to` cannot swap fake parameters."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(parameters)
    try:
        return norm()
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize(
    ("values", "parameters"), [(BF16, FP32), (BF16, BF16), (FP32, FP32)], ids=["mixed", "bf16", "fp32"]
)
def test_a_norm_returns_what_its_kernel_does(
    norm: Callable[[], nn.Module], values: torch.dtype, parameters: torch.dtype
) -> None:
    real, fake = (results(norm, values, parameters, fake) for fake in (False, True))
    assert fake == real
