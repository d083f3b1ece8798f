"""The networks a job can name, known by name and options alone: importing this does not import torch.

A model's name is of four kinds: a key of `NETWORKS`, a key of `FAMILIES` with a depth for its N,
`torchvision:NAME` or `path/to/file.py:function`.
Adding a network: write its builder, `(options, input_shape, classes) -> nn.Module`, and add one entry; a family's
builder takes `depth` as a keyword, too.
"""

from __future__ import annotations

import difflib
import pkgutil
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from models import external
from models.errors import ModelError, OptionError, UnknownNetworkError, did_you_mean
from models.options import (
    AlexnetOptions,
    BaselineOptions,
    Bottleneck8Options,
    BottleneckOptions,
    BranchOptions,
    CifarResnetOptions,
    DebOptions,
    MlpBlocksOptions,
    MlpOptions,
    MlpResidualOptions,
    SmallBaselineOptions,
    StageOptions,
    VggnetOptions,
    VggOptions,
)

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[..., nn.Module]

LEAST_DEPTH = 8
"""A family's networks are 6n + 2 layers deep, n ≥ 1."""
STUDIED_DEPTHS = (20, 56, 110)


class Network(msgspec.Struct, frozen=True):
    """A network that can be built by name."""

    name: str
    family: str
    summary: str
    builder: str
    """Where the builder is, as "module:function"; imported only when the network is built."""
    options: type[msgspec.Struct]
    depth: int | None = None
    """Set for a family's networks only; their builder takes it, and `name` has it in place of N."""
    input_shape: tuple[int, ...] = (3, 32, 32)
    """One sample of the data on which the network is described."""
    classes: int = 10
    """That data's classes."""

    @property
    def takes_points(self) -> bool:
        """Whether samples may be points, of one dimension; a network that takes them takes images, too."""
        return len(self.input_shape) == 1


_described_on_spirals = partial(Network, input_shape=(2,), classes=2)

_ENTRIES = (
    Network("baseline-130k", "baseline", "4 convolutions", "models.baselines:small", SmallBaselineOptions),
    Network("baseline-430k", "baseline", "6 convolutions", "models.baselines:medium", BaselineOptions),
    Network("baseline-large", "baseline", "5 convolutions, wider", "models.baselines:large", BaselineOptions),
    Network("resv1", "residual", "residual blocks", "models.stages:resv1", StageOptions),
    Network("bn4", "bottleneck", "bottlenecks, N=4", "models.stages:bn", BottleneckOptions),
    Network("bn8", "bottleneck", "bottlenecks, N=8", "models.stages:bn", Bottleneck8Options),
    Network("deb", "bottleneck", "double-encode bottlenecks, N=4, M=2", "models.stages:deb", DebOptions),
    Network("hwyv1", "highway", "highways of bottlenecks, N=4", "models.stages:hwyv1", BottleneckOptions),
    Network("hwyv2", "highway", "highways of residual blocks", "models.stages:hwyv2", StageOptions),
    Network("bv1", "branch", "bottleneck branches, concatenated", "models.stages:bv1", BranchOptions),
    Network("bv2", "branch", "bottleneck branches, averaged", "models.stages:bv2", BranchOptions),
    Network("bnv1", "branch", "normalised branches, concatenated", "models.stages:bnv1", BranchOptions),
    Network("bnv2", "branch", "normalised branches, averaged", "models.stages:bnv2", BranchOptions),
    Network("alexnet", "plain", "5 convolutions, large kernels", "models.from_alexnet:alexnet", AlexnetOptions),
    Network("vggnet", "plain", "9 convolutions", "models.from_alexnet:vggnet", VggnetOptions),
    Network("vggnet-bn", "plain", "vggnet with batch norm", "models.from_alexnet:vggnet_bn", VggnetOptions),
    Network(
        "deep-vggnet-bn", "plain", "17 convolutions, batch norm", "models.from_alexnet:deep_vggnet_bn", VggnetOptions
    ),
    Network("resnet", "residual", "8 residual blocks", "models.from_alexnet:resnet", VggnetOptions),
    Network("resnet-deeper", "residual", "13 residual blocks", "models.from_alexnet:resnet_deeper", VggnetOptions),
    Network("vgg08", "vgg", "7 convolutions of equal width", "models.vgg:vgg08", VggOptions),
    Network("vgg38", "vgg", "37 convolutions of equal width", "models.vgg:vgg38", VggOptions),
    Network("cnn", "plain", "4 convolutions, dropout", "models.cifar_resnet:cnn", BaselineOptions),
    _described_on_spirals("mlp", "mlp", "any depth and activation", "models.mlp:mlp", MlpOptions),
    _described_on_spirals("mlp-plain", "mlp", "blocks of two linear layers", "models.mlp:plain", MlpBlocksOptions),
    _described_on_spirals("mlp-residual", "mlp", "mlp-plain with skips", "models.mlp:residual", MlpResidualOptions),
)
NETWORKS: Mapping[str, Network] = MappingProxyType({network.name: network for network in _ENTRIES})

_FAMILY_ENTRIES = (
    Network("resnet-N", "residual", "6n + 2 layers, with skips", "models.cifar_resnet:resnet", CifarResnetOptions),
    Network("plainnet-N", "plain", "6n + 2 layers, without skips", "models.cifar_resnet:plainnet", CifarResnetOptions),
)
FAMILIES: Mapping[str, Network] = MappingProxyType({family.name: family for family in _FAMILY_ENTRIES})
"""Networks of any depth N = 6n + 2, by their name's pattern."""


def listed() -> list[Network]:
    """Every network, the families at the depths that were studied."""
    members = [_of_depth(family, depth) for family in FAMILIES.values() for depth in STUDIED_DEPTHS]
    return [*NETWORKS.values(), *members]


def find(name: str) -> Network:
    """The registered network of this name.

    Raises UnknownNetworkError with the nearest names, or ModelError for a depth that a family does not have.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    member = re.fullmatch(r"(.+-)([0-9]{1,9})", name)
    if member and (family := FAMILIES.get(f"{member[1]}N")):
        return _of_depth(family, int(member[2]))
    raise UnknownNetworkError(name, difflib.get_close_matches(name, [network.name for network in listed()]))


def _of_depth(family: Network, depth: int) -> Network:
    name = f"{family.name.removesuffix('N')}{depth}"
    if depth < LEAST_DEPTH or depth % 6 != 2:
        below = max(LEAST_DEPTH, depth - (depth - 2) % 6)
        raise ModelError(f"{name}: depth must be 6n + 2, such as {below} or {below + 6}")
    return msgspec.structs.replace(family, name=name, depth=depth)


def options_type(name: str) -> type[msgspec.Struct] | None:
    """The options a registered network takes; None where they are an external builder's own affair.

    Raises ModelError for a name that `find` refuses.
    """
    return None if external.is_external(name) else find(name).options


def takes_points(name: str) -> bool:
    """Whether a network of any kind may be given points rather than images.

    An external builder is taken at its word when it builds. Raises ModelError for a name that `find` refuses.
    """
    return external.is_external(name) or find(name).takes_points


def check(name: str, options: Mapping[str, object]) -> None:
    """Refuses, without torch, a name of any kind that cannot be built, or options its network cannot have.

    An external builder's options are not looked at. Raises ModelError.
    """
    if external.is_external(name):
        external.check_external(name)
    else:
        parse_options(name, options)


def parse_options(name: str, options: Mapping[str, object]) -> msgspec.Struct:
    """The options of a registered network, validated.

    Raises what `find` raises, or OptionError naming the key and what is allowed.
    """
    kind = find(name).options
    for key in options:
        if key not in kind.__struct_fields__:
            allowed = ", ".join(kind.__struct_fields__)
            nearest = difflib.get_close_matches(key, kind.__struct_fields__, n=1)
            raise OptionError(f"{name} has no option {key!r} (it has {allowed}){did_you_mean(nearest)}")
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise OptionError(f"{name}: {error}") from None


def build(name: str, options: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A fresh network of any kind, its weights drawn from torch's global generator.

    `input_shape` is one sample's: (C, H, W), or (D,) where the network takes points. The network returns logits
    (B, `classes`). Raises ModelError.
    """
    if external.is_external(name):
        return external.build(name, options, input_shape=input_shape, classes=classes)
    network = find(name)
    builder: Builder = pkgutil.resolve_name(network.builder)
    if network.depth is not None:
        builder = partial(builder, depth=network.depth)
    parsed = parse_options(name, options)
    try:
        return builder(parsed, input_shape, classes)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
