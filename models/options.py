"""What a job file may say about each network: frozen, self-checking, and free of torch.

Every default is the study's value. An impossible value is refused on construction with a ValueError
that names the key and what is allowed; through `msgspec.convert` it becomes a ValidationError.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "sigmoid"]

STAGES = 4
"""Stages of the plan: each is a widening convolution and the blocks that follow it."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every registered network takes. `width` is the channels of its first convolution, or units of a layer."""

    width: int = 32

    def __post_init__(self) -> None:
        _at_least("width", self.width, 1)


class BaselineOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plain convolutional network."""


class SmallBaselineOptions(BaselineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The smallest baseline starts at half the others' width."""

    width: int = 16


class StageOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stage plan: stage i has `width`·2^i channels and `blocks[i]` blocks, which may be 0."""

    blocks: tuple[int, ...] = (3, 3, 6, 6)

    def __post_init__(self) -> None:
        super().__post_init__()
        _per_stage("blocks", self.blocks, at_least=0)


class BottleneckOptions(StageOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bottlenecks narrow their map to width / `factor` (N)."""

    factor: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("factor", self.factor, 1)
        _divides("factor", self.factor, self.width)


class Bottleneck8Options(BottleneckOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """BN8: the narrower bottleneck."""

    factor: int = 8


class DebOptions(BottleneckOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Double-encode bottlenecks narrow by `factor` (N), then again by `squeeze` (M)."""

    squeeze: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("squeeze", self.squeeze, 1)
        _divides("factor × squeeze", self.factor * self.squeeze, self.width)


class BranchOptions(BottleneckOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One branch block a stage: `branches[i]` branches side by side, each of `blocks[i]` bottlenecks.

    By default the plan's runs of 3, 3, 6 and 6 bottlenecks stand side by side, so that the blocks of a stage
    cost what they cost in bn4. A stage with 0 blocks has no branches.
    """

    blocks: tuple[int, ...] = (1, 1, 1, 1)
    branches: tuple[int, ...] = (3, 3, 6, 6)

    def __post_init__(self) -> None:
        super().__post_init__()
        _per_stage("branches", self.branches, at_least=3, at_most=6)


class AlexnetOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """alexnet: another width scales all its channels."""

    width: int = 64


class VggnetOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vggnet and the networks that came of it start narrow; another width scales all their channels."""

    width: int = 8


class VggOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vgg08 and vgg38: batch norm (`bn`), and skips over processing (`rc`) and reduction blocks (`down_skip`)."""

    bn: bool = False
    rc: bool = False
    down_skip: Literal["none", "conv", "pool"] = "none"
    """A reduction block's skip halves its map by a 1×1 convolution of stride 2 or by average-pooling."""


class CifarResnetOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """resnet-N and plainnet-N: `width`, 2·`width` and 4·`width` filters."""

    width: int = 16


class MlpOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """mlp: `depth` hidden layers of `width` units."""

    width: int = 20
    depth: int = 8
    activation: Activation = "relu"
    initialisation: Literal["auto", "kaiming", "xavier"] = "auto"
    """Weights start Kaiming- or Xavier-normal; "auto" is Xavier for sigmoid, Kaiming for the others, all like ReLU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("depth", self.depth, 1)


class MlpBlocksOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """mlp-plain and mlp-residual: `blocks` blocks of two layers of `width` units."""

    width: int = 20
    blocks: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("blocks", self.blocks, 1)


class MlpResidualOptions(MlpBlocksOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """mlp-residual: weights start Kaiming-normal; "scaled" divides those of each block's last layer by √`blocks`.

    Unscaled activations grow by every skip: 25 blocks begin at a loss of thousands, and learn poorly.
    """

    initialisation: Literal["kaiming", "scaled"] = "kaiming"


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{key} must be at least {least}, got {value}")


def _divides(key: str, divisor: int, width: int) -> None:
    if width % divisor:
        raise ValueError(f"width must be a multiple of {key} ({divisor}), got {width}")


def _per_stage(key: str, counts: tuple[int, ...], *, at_least: int, at_most: int | None = None) -> None:
    if len(counts) == STAGES and at_least <= min(counts) and (at_most is None or max(counts) <= at_most):
        return
    allowed = f"{at_least} or more" if at_most is None else f"from {at_least} to {at_most}"
    raise ValueError(f"{key} must be {STAGES} counts, one per stage, each {allowed}; got {list(counts)}")
