"""The networks a job can name, known by name and options alone: importing this does not import torch.

A model's name is of three kinds: a key of `NETWORKS`, `torchvision:NAME` or `path/to/file.py:function`.
Adding a network: write its builder, `(options, input_shape, classes) -> nn.Module`, and add one entry.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from models import external
from models.errors import ModelError, OptionError, UnknownNetworkError, did_you_mean
from models.options import (
    BaselineOptions,
    Bottleneck8Options,
    BottleneckOptions,
    BranchOptions,
    DebOptions,
    SmallBaselineOptions,
    StageOptions,
)

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[[Any, tuple[int, ...], int], nn.Module]


class Network(msgspec.Struct, frozen=True):
    """A network that can be built by name."""

    name: str
    family: str
    summary: str
    builder: str
    """Where the builder is, as "module:function"; imported only when the network is built."""
    options: type[msgspec.Struct]


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
)
NETWORKS: Mapping[str, Network] = MappingProxyType({network.name: network for network in _ENTRIES})


def find(name: str) -> Network:
    """The registered network of this name. Raises UnknownNetworkError with the nearest names."""
    if name not in NETWORKS:
        raise UnknownNetworkError(name, difflib.get_close_matches(name, NETWORKS))
    return NETWORKS[name]


def options_type(name: str) -> type[msgspec.Struct] | None:
    """The options a registered network takes; None where they are an external builder's own affair.

    Raises UnknownNetworkError.
    """
    return None if external.is_external(name) else find(name).options


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

    Raises UnknownNetworkError, or OptionError naming the key and what is allowed.
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

    `input_shape` is one sample's, (C, H, W); the network returns logits (B, `classes`). Raises ModelError.
    """
    if external.is_external(name):
        return external.build(name, options, input_shape=input_shape, classes=classes)
    builder: Builder = pkgutil.resolve_name(find(name).builder)
    parsed = parse_options(name, options)
    try:
        return builder(parsed, input_shape, classes)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
