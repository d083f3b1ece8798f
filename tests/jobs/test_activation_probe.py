"""The activation probe: every layer's output, in order, measured before anything writes over it."""

import contextlib
import math
from collections.abc import Callable
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from jobs.diagnostics.activations import DEAD_ZEROS, LayerActivations, dead_layers, probe
from models.registry import build


class Functional(nn.Module):
    """Activates by a function, in place, as the residual blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x, inplace=True)


class Calling(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Twice(nn.Module):
    """Uses one module and one function two times each."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(self.activation(self.activation(x))))


class Failing(nn.Module):
    def forward(self, _: Tensor) -> Tensor:
        raise RuntimeError("in the middle of it")


class Recovering(nn.Module):
    """Goes on where a module of its own failed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Failing()

    def forward(self, x: Tensor) -> Tensor:
        with contextlib.suppress(RuntimeError):
            self.inner(x)
        return F.relu(x)


def names(network: nn.Module, *shape: int) -> list[str]:
    return [layer.name for layer in probe(network, torch.randn(*shape))]


def of(values: Tensor) -> LayerActivations:
    """What the probe says of a linear layer that puts out these values."""
    identity = nn.Linear(values.shape[1], values.shape[1], bias=False)
    nn.init.eye_(identity.weight)
    return probe(identity.to(values.dtype), values)[0]


def layer(kind: str = "relu", zeros: float = 0.0, low: float = 0.0, high: float = 1.0) -> LayerActivations:
    return LayerActivations(name=kind, kind=kind, mean=0.1, std=0.1, min=low, max=high, zeros=zeros)


def test_every_layer_appears_by_its_path_in_the_order_it_is_computed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8, 5))
    layers = probe(network, torch.randn(4, 3, 4, 4))
    assert [(layer.name, layer.kind) for layer in layers] == [("0", "conv"), ("2", "leaky_relu"), ("4", "linear")]


def test_a_function_goes_by_the_path_of_the_module_that_calls_it() -> None:
    network = nn.Sequential(Functional(), nn.Sequential(Functional()))
    assert names(network, 2, 2, 5, 5) == ["0.body", "0.relu", "1.0.body", "1.0.relu"]


def test_a_function_that_the_network_itself_calls_has_no_path() -> None:
    assert names(Functional(), 2, 2, 5, 5) == ["body", "relu"]


@pytest.mark.parametrize("function", [F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_])
def test_a_function_counts_however_it_is_called(function: Callable[[Tensor], Tensor]) -> None:
    assert names(Calling(function), 2, 3) == ["relu"]


def test_what_is_computed_again_gets_a_number() -> None:
    assert names(Twice(), 2, 3) == ["activation", "activation#2", "relu", "relu#2"]


def test_the_residual_blocks_show_both_of_their_activations() -> None:
    found = names(build("resnet-8", {"width": 4}, input_shape=(3, 16, 16), classes=2), 2, 3, 16, 16)
    assert found[2:6] == ["1.body.0.0", "1.body.0.2", "1.body.1.0", "1.relu"]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.ReLU(inplace=True), "relu"),
        (nn.ReLU6(), "hardtanh"),
        (nn.PReLU(), "prelu"),
        (nn.ELU(), "elu"),
        (nn.SELU(), "selu"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Mish(), "mish"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.LogSigmoid(), "log_sigmoid"),
        (nn.Tanh(), "tanh"),
        (nn.Hardswish(), "hardswish"),
        (nn.Softplus(), "softplus"),
        (nn.Conv1d(2, 2, 2), "conv"),
        (nn.ConvTranspose1d(2, 2, 2), "conv"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_of_torch_are_layers(module: nn.Module, kind: str) -> None:
    found = probe(nn.Sequential(module), torch.randn(2, 2, 4))
    assert [(layer.name, layer.kind) for layer in found] == [("0", kind)]


def test_attention_is_seen_as_a_whole_in_evaluation_too() -> None:
    network = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True).eval()
    assert names(network, 2, 3, 4) == ["self_attn.attention", "linear1", "relu", "linear2"]


def test_an_output_is_measured_before_an_activation_in_place_overwrites_it() -> None:
    convolution, activation = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), torch.randn(2, 3, 6, 6))
    assert convolution.min < 0
    assert activation.min == 0


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_figures_are_of_all_numbers_that_a_layer_puts_out(rows: list[list[float]]) -> None:
    values = [value for row in rows for value in row]
    measured = of(torch.tensor(rows, dtype=torch.float64))
    assert measured.mean == pytest.approx(fmean(values), abs=1e-6)
    assert measured.std == pytest.approx(pstdev(values), abs=1e-6)
    assert (measured.min, measured.max) == (min(values), max(values))
    assert measured.zeros == pytest.approx(values.count(0) / len(values))


def test_a_spread_whose_square_float32_cannot_hold_is_told() -> None:
    assert of(torch.tensor([[-1e30], [1e30]])).std == pytest.approx(1e30)


def test_outputs_that_are_no_numbers_are_told_rather_than_refused() -> None:
    assert math.isnan(of(torch.tensor([[math.nan], [1.0]])).mean)


def test_half_precision_is_measured_too() -> None:
    assert of(torch.tensor([[300.0], [-300.0]], dtype=torch.bfloat16)).std == 300


def test_the_mode_is_the_callers() -> None:
    network, images = nn.Sequential(nn.BatchNorm1d(1), nn.ReLU()), torch.tensor([[8.0], [10.0]])
    assert probe(network.train(), images)[0].max == pytest.approx(1, abs=1e-4)
    assert probe(network.eval(), images)[0].max == pytest.approx(10, abs=1e-3)


def test_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe(network, torch.randn(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_gradient_is_prepared() -> None:
    seen: list[bool] = []
    network = nn.Linear(2, 2)
    network.register_forward_hook(lambda _module, _inputs, output: seen.append(output.requires_grad))
    probe(network, torch.randn(1, 2))
    assert seen == [False]


@pytest.mark.parametrize("last", [nn.ReLU(), Failing()], ids=["success", "failure"])
def test_nothing_is_left_on_the_network_or_on_torch(last: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(last))
    if isinstance(last, Failing):
        with pytest.raises(RuntimeError, match="in the middle"):
            probe(network, torch.randn(1, 2))
    else:
        probe(network, torch.randn(1, 2))
    hooks = [hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert (hooks, _get_current_function_mode_stack()) == ([], [])


def test_a_module_that_failed_is_no_longer_at_work() -> None:
    assert names(Recovering(), 1, 2) == ["relu"]


def test_a_network_without_layers_has_none() -> None:
    assert probe(nn.Flatten(), torch.randn(2, 3)) == []


def test_an_activation_is_dead_from_the_documented_part_of_zeros_on() -> None:
    assert layer(zeros=DEAD_ZEROS).dead
    assert not layer(zeros=DEAD_ZEROS - 0.001).dead


def test_zeros_alone_do_not_make_a_convolution_dead() -> None:
    assert not layer("conv", zeros=DEAD_ZEROS).dead


@pytest.mark.parametrize("kind", ["conv", "linear", "sigmoid"])
def test_a_layer_without_spread_is_dead(kind: str) -> None:
    assert layer(kind, low=1.0, high=1.0).dead


def test_what_is_no_number_is_not_dead() -> None:
    assert not layer("linear", low=math.nan, high=math.nan).dead


def test_dead_layers_of_a_network_are_named() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    with torch.no_grad():
        network[0].bias.fill_(-100)  # nothing passes the first ReLU, and so the second linear layer
        network[2].bias.fill_(1)  # puts out the same for every image
    assert dead_layers(probe(network, torch.randn(8, 2))) == ["1", "2", "3"]
