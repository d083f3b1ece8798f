"""The activation probe: what every layer of a network puts out for one batch, and which layers are dead."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

DEAD_ZEROS = 0.99
DEAD_RULE = (
    f"dead: at least {DEAD_ZEROS:.0%} of an activation's outputs are exactly 0 on this batch, "
    "or all outputs of a layer are the same"
)

_ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "glu"),
    *("sigmoid", "hardsigmoid", "log_sigmoid", "tanh", "hardtanh", "hardswish", "softplus", "softsign"),
)
_CONVOLUTIONS = tuple(f"{name}{dimensions}d" for name in ("conv", "conv_transpose") for dimensions in (1, 2, 3))
# What torch calls a function -> the kind of layer that it computes.
_KINDS: Mapping[str, str] = MappingProxyType(
    {name: name for name in _ACTIVATIONS}
    | dict.fromkeys(_CONVOLUTIONS, "conv")
    | {"linear": "linear", "multi_head_attention_forward": "attention"}
)


class LayerActivations(Struct, frozen=True, kw_only=True):
    """All numbers that a layer put out for a batch. `std` is of the population; `zeros` the fraction of exact zeros."""

    name: str
    kind: str  # "conv", "linear", "attention", or the activation: "relu", "leaky_relu", "sigmoid", …
    mean: float
    std: float
    min: float
    max: float
    zeros: float

    @property
    def dead(self) -> bool:
        """Whether the layer tells nothing about the batch, by `DEAD_RULE`."""
        return self.min == self.max or (self.kind in _ACTIVATIONS and self.zeros >= DEAD_ZEROS)


@torch.no_grad()
def probe(network: nn.Module, images: Tensor) -> list[LayerActivations]:
    """The outputs of convolutions, linear layers and activations on `images` (B, …), in the order they are computed.

    Modules go by their path, functional calls by the path of the module that makes them and their kind, as in
    `3.relu`; what is computed again gets a number: `3.relu#2`. Attention is seen as a whole. Whether dropout and batch
    norm work as in training is up to the caller, as are the devices; the network and its statistics stay as they are.
    """
    recorder = _Recorder()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with _followed(network, recorder), recorder:
        functional_call(network, buffers, (images,))
    return recorder.layers()


def dead_layers(layers: Sequence[LayerActivations]) -> list[str]:
    """The names of the dead among them."""
    return [layer.name for layer in layers if layer.dead]


class _Recorder(TorchFunctionMode):
    """Measures each output the moment it is there: an activation in place may be the next to write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work: list[tuple[str, nn.Module]] = []
        """The modules whose forward runs, each in the one before, with their paths."""
        self._measured: list[tuple[str, str, Tensor]] = []
        self._times: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        function = getattr(func, "__name__", "").rstrip("_")  # relu_ is relu in place
        if function in _KINDS:
            first = output if isinstance(output, Tensor) else output[0]  # attention returns its weights, too
            kind = _KINDS[function]
            self._measured.append((self._name(function, kind), kind, _measure(first)))
        return output

    def layers(self) -> list[LayerActivations]:
        if not self._measured:
            return []
        numbers = torch.stack([measures for _, _, measures in self._measured]).tolist()
        return [
            LayerActivations(name=name, kind=kind, mean=mean, std=std, min=low, max=high, zeros=zeros)
            for (name, kind, _), (mean, std, low, high, zeros) in zip(self._measured, numbers, strict=True)
        ]

    def _name(self, function: str, kind: str) -> str:
        path, module = self.at_work[-1]
        name = path if path and _is_layer(module, function) else f"{path}.{kind}".lstrip(".")
        self._times[name] += 1
        return name if self._times[name] == 1 else f"{name}#{self._times[name]}"


def _is_layer(module: nn.Module, function: str) -> bool:
    """Whether a module is no more than the function, as nn.LeakyReLU is of leaky_relu."""
    return function.replace("_", "") in (base.__name__.lower() for base in type(module).__mro__)


def _measure(output: Tensor) -> Tensor:
    """Mean, std, min, max and fraction of zeros: float64 of shape (5,), on the output's device."""
    values = output.double()  # squares of what a float32 holds may be more than it holds
    std, mean = torch.std_mean(values, correction=0)
    return torch.stack([mean, std, *values.aminmax(), (values == 0).double().mean()])


@contextmanager
def _followed(network: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which modules are at work; afterwards the network has no hook left, whatever happened."""

    def enter(name: str, module: nn.Module, _: Any) -> None:
        recorder.at_work.append((name, module))

    def leave(*_: Any) -> None:
        recorder.at_work.pop()

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(enter, name)))
            hooks.enter_context(module.register_forward_hook(leave, always_call=True))
        yield
