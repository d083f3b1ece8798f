"""The block study's stage plan, and its networks: resv1, bn4, bn8, deb, hwyv1, hwyv2, bv1, bv2, bnv1, bnv2.

Each of four stages is a widening convolution (BN, ReLU, and max-pool 2 in all but the last) and a run of
blocks; the head pools to 2×2 and classifies. Stage i is `width`·2^i channels wide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

from models.blocks import (
    Block,
    Bottleneck,
    Branch,
    Chain,
    DoubleEncodeBottleneck,
    Highway,
    Residual,
    conv_bn_relu,
)
from models.errors import ModelError
from models.options import BottleneckOptions, BranchOptions, DebOptions, StageOptions

KERNELS = (5, 5, 3, 3)
"""Kernel size of each stage's widening convolution."""
LEAST_PIXELS = 16
"""Smallest height and width of an image: three pools leave the 2×2 that the head reads."""
HEAD_WIDTH = 64


def resv1(options: StageOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Residual blocks."""
    return _in_line(Chain, Residual, options, input_shape, classes)


def bn(options: BottleneckOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Bottlenecks."""
    block = partial(Bottleneck, factor=options.factor)
    return _in_line(Chain, block, options, input_shape, classes)


def deb(options: DebOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Double-encode bottlenecks."""
    block = partial(DoubleEncodeBottleneck, factor=options.factor, squeeze=options.squeeze)
    return _in_line(Chain, block, options, input_shape, classes)


def hwyv1(options: BottleneckOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One highway of bottlenecks a stage."""
    block = partial(Bottleneck, factor=options.factor)
    return _in_line(Highway, block, options, input_shape, classes)


def hwyv2(options: StageOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One highway of residual blocks a stage."""
    return _in_line(Highway, Residual, options, input_shape, classes)


def bv1(options: BranchOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Concatenated branches: a stage returns branches × its width, which the next convolution takes."""
    return _branched(options, input_shape, classes, combine="concatenate", normalise=False)


def bv2(options: BranchOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Averaged branches, plus their input."""
    return _branched(options, input_shape, classes, combine="average", normalise=False)


def bnv1(options: BranchOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """bv1 with batch norm on each branch's output."""
    return _branched(options, input_shape, classes, combine="concatenate", normalise=True)


def bnv2(options: BranchOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """bv2 with batch norm on each branch's output."""
    return _branched(options, input_shape, classes, combine="average", normalise=True)


def _in_line(
    join: type[Chain],
    block: Callable[[int], Block],
    options: StageOptions,
    input_shape: tuple[int, ...],
    classes: int,
) -> nn.Module:
    """The plan with a stage's blocks one after another, joined as a chain or a highway."""

    def run(stage: int, channels: int) -> Block:
        return join(block(channels) for _ in range(options.blocks[stage]))

    return stage_plan(options, input_shape, classes, run)


def _branched(
    options: BranchOptions,
    input_shape: tuple[int, ...],
    classes: int,
    *,
    combine: Literal["concatenate", "average"],
    normalise: bool,
) -> nn.Module:
    """The plan with one branch block a stage, each branch a chain of bottlenecks."""

    def branch(stage: int, channels: int) -> Block:
        return Chain(Bottleneck(channels, options.factor) for _ in range(options.blocks[stage]))

    def run(stage: int, channels: int) -> Block:
        branches = [branch(stage, channels) for _ in range(options.branches[stage])]
        return Branch(branches, combine=combine, normalise=normalise, add_input=combine == "average")

    return stage_plan(options, input_shape, classes, run)


def stage_plan(
    options: StageOptions,
    input_shape: tuple[int, ...],
    classes: int,
    run: Callable[[int, int], Block],
) -> nn.Sequential:
    """The plan with `run(stage, channels)` after each widening convolution of a stage that has blocks."""
    channels = image_channels(input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, (kernel, count) in enumerate(zip(KERNELS, options.blocks, strict=True)):
        width = options.width * 2**stage
        layers[f"widen{stage}"] = conv_bn_relu(channels, width, kernel)
        if stage < len(KERNELS) - 1:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        channels = width
        if count:
            layers[f"blocks{stage}"] = block = run(stage, channels)
            channels = block.out_channels
    layers["head"] = head(channels, classes)
    return nn.Sequential(layers)


def head(channels: int, classes: int) -> nn.Sequential:
    """Feature maps (B, channels, H, W) to logits (B, classes), through an average pool to 2×2."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, HEAD_WIDTH),
        nn.LayerNorm(HEAD_WIDTH),
        nn.ReLU(inplace=True),
        nn.Linear(HEAD_WIDTH, classes),
    )


def image_channels(input_shape: tuple[int, ...], least_pixels: int = LEAST_PIXELS) -> int:
    """The channels of an image's shape (C, H, W). Raises ModelError for any other or too small a shape."""
    if len(input_shape) != 3 or min(input_shape[1:]) < least_pixels:
        raise ModelError(f"needs images (C, H, W) of at least {least_pixels}×{least_pixels} pixels, got {input_shape}")
    return input_shape[0]
