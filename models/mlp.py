"""Small multilayer perceptrons: mlp, of any depth and activation, and mlp-plain and mlp-residual, a pair.

Samples of any shape are flattened: points (2,) as well as images (C, H, W). Every activation is a module, so that hooks
see each layer. Biases start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.initialisation import kaiming_normal, xavier_normal
from models.options import Activation, MlpBlocksOptions, MlpOptions, MlpResidualOptions

# In place where autograd allows it: these two find their gradient from their output's sign.
ACTIVATIONS: Mapping[Activation, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": partial(nn.ReLU, inplace=True),
        "leaky_relu": partial(nn.LeakyReLU, inplace=True),
        "prelu": nn.PReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "sigmoid": nn.Sigmoid,
    }
)


class MlpBlock(nn.Module):
    """linear → ReLU → linear, plus the input where `skip`, → ReLU: (B, width) to (B, width)."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True))
        self.outer = nn.Linear(width, width)
        self.skip = skip
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.outer(self.inner(x))
        out: Tensor = self.activation(branch + x if self.skip else branch)
        return out


def mlp(options: MlpOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """`depth` times linear → activation, then linear."""
    activation = ACTIVATIONS[options.activation]
    network = nn.Sequential(nn.Flatten())
    features = math.prod(input_shape)
    for _ in range(options.depth):
        network.extend([nn.Linear(features, options.width), activation()])
        features = options.width
    network.append(nn.Linear(features, classes))
    initialise = xavier_normal if _starts_xavier(options) else kaiming_normal
    initialise(network, nn.Linear)
    return network


def _starts_xavier(options: MlpOptions) -> bool:
    if options.initialisation == "auto":
        return options.activation == "sigmoid"
    return options.initialisation == "xavier"


def plain(options: MlpBlocksOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """linear → ReLU, `blocks` blocks without skips, linear."""
    return _of_blocks(options, input_shape, classes, skip=False)


def residual(options: MlpResidualOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The same with skips."""
    network = _of_blocks(options, input_shape, classes, skip=True)
    if options.initialisation == "scaled":
        _scale_branches(network)
    return network


def _of_blocks(options: MlpBlocksOptions, input_shape: tuple[int, ...], classes: int, *, skip: bool) -> nn.Sequential:
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), options.width),
        nn.ReLU(inplace=True),
        *(MlpBlock(options.width, skip=skip) for _ in range(options.blocks)),
        nn.Linear(options.width, classes),
    )
    kaiming_normal(network, nn.Linear)
    return network


@torch.no_grad()
def _scale_branches(network: nn.Module) -> None:
    """Divide the last weights of each of L blocks by √L, as deep sums need (Marion et al. 2022, arXiv:2206.06929)."""
    blocks = [module for module in network.children() if isinstance(module, MlpBlock)]
    for block in blocks:
        block.outer.weight /= math.sqrt(len(blocks))
