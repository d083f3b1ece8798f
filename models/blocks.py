"""The block study's building blocks.

A block maps (B, in_channels, H, W) to (B, out_channels, H, W). Blocks compose: chains and highways take any
blocks in sequence, branches take any blocks side by side. Batch norm follows every convolution, so these have
no bias.

Where the last activation stands: residual blocks and bottlenecks activate the sum, as in He et al. 2015
(arXiv:1512.03385); a DEB activates every step, the last one too, and then adds its input. Either way maps are
non-negative, and the sums of highways and branches need no activation of their own. Only normalised branches
return signed maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Base of every block: declares the channels it takes and returns.

    Height and width stay as they are, but for blocks that say otherwise.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A "same"-padded convolution of an odd kernel size, and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """`conv_bn` followed by ReLU."""
    return conv_bn(in_channels, out_channels, kernel, stride).append(nn.ReLU(inplace=True))


class Residual(Block):
    """conv3 → BN → ReLU → conv3 → BN, plus the input, → ReLU. Costs 18·HWC² multiply-accumulates."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.body = nn.Sequential(conv_bn_relu(channels, channels, 3), conv_bn(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x, inplace=True)


class Bottleneck(Block):
    """1×1 C→C/N · 3×3 · 1×1 C/N→C, plus the input, → ReLU. Costs (2/N + 9/N²)·HWC² multiply-accumulates.

    `factor` is N. Raises ValueError when it does not divide `channels`.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels)
        inner = _divide(channels, factor)
        self.body = nn.Sequential(
            conv_bn_relu(channels, inner, 1),
            conv_bn_relu(inner, inner, 3),
            conv_bn(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x, inplace=True)


class DoubleEncodeBottleneck(Block):
    """DEB: 1×1 C→C/N · 1×1 C/N→C/(MN) · 3×3 · 1×1 C/(MN)→C/N · 1×1 C/N→C, each activated, plus the input.

    `factor` is N, `squeeze` is M. Costs (2/N + 2/(M·N²) + 9/(M²·N²))·HWC² multiply-accumulates.
    Raises ValueError when M·N does not divide `channels`.
    """

    def __init__(self, channels: int, factor: int, squeeze: int) -> None:
        super().__init__(channels, channels)
        outer = _divide(channels, factor)
        inner = _divide(outer, squeeze)
        self.body = nn.Sequential(
            conv_bn_relu(channels, outer, 1),
            conv_bn_relu(outer, inner, 1),
            conv_bn_relu(inner, inner, 3),
            conv_bn_relu(inner, outer, 1),
            conv_bn_relu(outer, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + x
        return out


class Chain(Block):
    """Blocks one after another.

    Raises ValueError when there are none, or when one does not take the channels that it is given.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        blocks = list(blocks)
        if not blocks:
            raise ValueError("a chain needs at least one block")
        for before, after in pairwise(blocks):
            if before.out_channels != after.in_channels:
                raise ValueError(f"{after.in_channels} channels cannot follow {before.out_channels}")
        super().__init__(blocks[0].in_channels, blocks[-1].out_channels)
        self.body = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        return x


class Highway(Chain):
    """A chain, plus one long skip from its input to its output. The blocks keep skips of their own.

    Raises ValueError when the chain does not return as many channels as it takes.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__(blocks)
        if self.in_channels != self.out_channels:
            raise ValueError(f"a highway cannot skip from {self.in_channels} to {self.out_channels} channels")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Branch(Block):
    """k parallel branches on one input, each any block.

    `combine`: "concatenate" (V1) returns the branches' channels one after another, "average" (V2) their mean.
    `normalise`: batch-normalise each branch's output first ("N"). `add_input`: add the input to the average.
    Raises ValueError when the branches' channels do not fit together that way.
    """

    def __init__(
        self,
        branches: Sequence[Block],
        *,
        combine: Literal["concatenate", "average"],
        normalise: bool = False,
        add_input: bool = False,
    ) -> None:
        in_channels, out_channels = _branch_channels(branches, combine, add_input)
        super().__init__(in_channels, out_channels)
        self.branches = nn.ModuleList(
            nn.Sequential(branch, nn.BatchNorm2d(branch.out_channels)) if normalise else branch for branch in branches
        )
        self.concatenate = combine == "concatenate"
        self.add_input = add_input

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [branch(x) for branch in self.branches]
        if self.concatenate:
            return torch.cat(outputs, dim=1)
        mean = sum(outputs[1:], start=outputs[0]) / len(outputs)
        return mean + x if self.add_input else mean


def _divide(channels: int, factor: int) -> int:
    if factor < 1 or channels % factor:
        raise ValueError(f"{channels} channels cannot be divided by {factor}")
    return channels // factor


def _branch_channels(branches: Sequence[Block], combine: str, add_input: bool) -> tuple[int, int]:
    """The channels that branches take and return together."""
    taken = {branch.in_channels for branch in branches}
    returned = {branch.out_channels for branch in branches}
    if len(taken) != 1:
        raise ValueError(f"branches must all take the same channels, got {sorted(taken)}")
    if combine == "concatenate" and add_input:
        raise ValueError("the input can be added to averaged branches only")
    if combine == "concatenate":
        return taken.pop(), sum(branch.out_channels for branch in branches)
    if len(returned) != 1 or (add_input and returned != taken):
        raise ValueError(f"averaged branches must return the same channels, got {sorted(returned)}")
    return taken.pop(), returned.pop()
