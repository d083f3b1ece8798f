"""What a network costs, counted on the network itself: multiply-accumulates and parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.blocks import Block


def convolution_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of every nn.Conv1d/2d/3d in one forward pass of one sample of `input_shape`.

    The pass runs on the meta device: nothing is computed and the module stays as it was.
    """
    return _count(module, input_shape, module.modules())


def block_macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """The part of `convolution_macs` that lies inside the network's blocks."""
    blocks = (module for module in network.modules() if isinstance(module, Block))
    return _count(network, input_shape, (inner for block in blocks for inner in block.modules()))


def count_parameters(module: nn.Module) -> int:
    """The trained numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _count(module: nn.Module, input_shape: tuple[int, ...], counted: Iterable[nn.Module]) -> int:
    """Multiply-accumulates of the convolutions among `counted`; a module that is there twice counts once."""
    macs = 0

    def add(convolution: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        # Each output position takes every weight once, whatever the stride, dilation or groups.
        macs += output.shape[2:].numel() * weights[convolution]

    weights: dict[nn.Module, int] = {
        part: part.weight.numel() for part in counted if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    handles = [convolution.register_forward_hook(add) for convolution in weights]
    try:
        _forward_on_meta(module, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    return macs


@torch.no_grad()
def _forward_on_meta(module: nn.Module, input_shape: tuple[int, ...]) -> None:
    """One forward pass without data; swapped-in tensors keep the module's own statistics untouched."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weightless = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    # Batch norm in training mode refuses a single value per channel: two samples, and shapes do not tell.
    functional_call(module, weightless, (torch.empty(2, *input_shape, device="meta"),))
