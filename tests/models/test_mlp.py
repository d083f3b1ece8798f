"""mlp, mlp-plain and mlp-residual: layers, first weights, skips, and the data that they take."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.errors import ModelError, OptionError, UnknownNetworkError
from models.macs import count_parameters
from models.mlp import ACTIVATIONS, MlpBlock
from models.options import Activation
from models.registry import build, check, find, listed, takes_points

MLPS = ["mlp", "mlp-plain", "mlp-residual"]
few = settings(deadline=None, max_examples=10, derandomize=True)
sizes = st.integers(1, 20)


def of_points(name: str, **options: object) -> nn.Module:
    return build(name, options, input_shape=(2,), classes=2)


def on_meta(name: str, input_shape: tuple[int, ...] = (2,), classes: int = 2, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, options, input_shape=input_shape, classes=classes)


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def backward(network: nn.Module) -> None:
    loss = nn.functional.cross_entropy(network(torch.randn(64, 2)), torch.arange(64) % 2)
    torch.autograd.backward(loss)


@few
@given(features=sizes, width=sizes, depth=sizes, classes=sizes)
def test_an_mlp_has_one_layer_into_its_width_one_out_and_square_ones_between(
    features: int, width: int, depth: int, classes: int
) -> None:
    network = on_meta("mlp", (features,), classes, width=width, depth=depth)
    between = (depth - 1) * (width * width + width)
    assert count_parameters(network) == (features + 1) * width + between + (width + 1) * classes


def test_each_prelu_learns_a_slope_of_its_own() -> None:
    assert count_parameters(on_meta("mlp", activation="prelu")) == count_parameters(on_meta("mlp")) + 8


@few
@given(features=sizes, width=sizes, blocks=sizes, classes=sizes)
@pytest.mark.parametrize("name", ["mlp-plain", "mlp-residual"])
def test_a_block_is_two_square_layers_with_or_without_a_skip(
    name: str, features: int, width: int, blocks: int, classes: int
) -> None:
    network = on_meta(name, (features,), classes, width=width, blocks=blocks)
    inside = blocks * 2 * (width * width + width)
    assert count_parameters(network) == (features + 1) * width + inside + (width + 1) * classes


@pytest.mark.parametrize(("name", "hidden"), [("mlp", 8), ("mlp-plain", 1 + 2 * 5), ("mlp-residual", 1 + 2 * 5)])
def test_an_activation_module_follows_every_layer_but_the_last(name: str, hidden: int) -> None:
    ran: list[type[nn.Module]] = []
    network = of_points(name)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.ReLU):
            module.register_forward_hook(lambda module, _inputs, _output: ran.append(type(module)))
    network(torch.randn(4, 2))
    assert ran == [*[nn.Linear, nn.ReLU] * hidden, nn.Linear]


@pytest.mark.parametrize("activation", get_args(Activation))
def test_an_activation_is_the_function_of_its_name(activation: Activation) -> None:
    x = torch.randn(100)
    expected = {
        "relu": x.clamp(min=0),
        "leaky_relu": torch.where(x > 0, x, 0.01 * x),
        "prelu": torch.where(x > 0, x, 0.25 * x),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "gelu": x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        "silu": x / (1 + (-x).exp()),
        "sigmoid": 1 / (1 + (-x).exp()),
    }
    torch.testing.assert_close(ACTIVATIONS[activation]()(x.clone()).detach(), expected[activation])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_reach_every_parameter_through_every_activation(activation: str) -> None:
    network = of_points("mlp", activation=activation)
    backward(network)
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)])
def test_overwriting_their_input_changes_no_gradient(activation: str, kind: type[nn.ReLU | nn.LeakyReLU]) -> None:
    network = of_points("mlp", activation=activation)
    inputs = torch.randn(8, 2)
    gradients = []
    for inplace in (True, False):
        for module in network.modules():
            if isinstance(module, kind):
                module.inplace = inplace
        gradients.append(torch.autograd.grad(network(inputs).square().sum(), list(network.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains_in_bfloat16_autocast(activation: str) -> None:
    network = of_points("mlp", activation=activation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(8, 2))
    logits.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def stds(network: nn.Module) -> list[float]:
    return [layer.weight.std().item() for layer in linear_layers(network)]


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "sigmoid"])
def test_weights_start_kaiming_normal_by_fan_in(activation: str) -> None:
    network = build("mlp", {"width": 300, "depth": 2, "activation": activation}, input_shape=(50,), classes=100)
    expected = [math.sqrt(2 / 50), math.sqrt(2 / 300), math.sqrt(2 / 300)]
    assert stds(network) == pytest.approx(expected, rel=0.03)


def test_weights_before_a_sigmoid_start_xavier_normal() -> None:
    options = {"width": 300, "depth": 2, "activation": "sigmoid"}
    network = build("mlp", options, input_shape=(50,), classes=100)
    expected = [math.sqrt(2 / 350), math.sqrt(2 / 600), math.sqrt(2 / 400)]
    assert stds(network) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("initialisation", "denominator"), [("kaiming", 50), ("xavier", 50 + 300)])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_either_initialisation_goes_with_any_activation(activation: str, initialisation: str, denominator: int) -> None:
    options = {"width": 300, "depth": 1, "activation": activation, "initialisation": initialisation}
    network = build("mlp", options, input_shape=(50,), classes=2)
    assert stds(network)[0] == pytest.approx(math.sqrt(2 / denominator), rel=0.03)


@pytest.mark.parametrize("initialisation", ["kaiming", "xavier"])
def test_the_first_weights_distribution_is_normal_in_shape(initialisation: str) -> None:
    weight = linear_layers(of_points("mlp", width=300, initialisation=initialisation))[1].weight
    within_one_std = (weight.abs() < weight.std()).float().mean().item()
    assert within_one_std == pytest.approx(math.erf(1 / math.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("name", ["mlp-plain", "mlp-residual"])
def test_blocks_start_kaiming_normal(name: str) -> None:
    network = build(name, {"width": 300, "blocks": 2}, input_shape=(50,), classes=100)
    assert stds(network) == pytest.approx([math.sqrt(2 / 50), *[math.sqrt(2 / 300)] * 5], rel=0.03)


@few
@given(blocks=st.integers(1, 30))
def test_scaling_divides_the_last_layer_of_each_block_by_the_root_of_their_number(blocks: int) -> None:
    torch.manual_seed(0)
    expected = of_points("mlp-residual", blocks=blocks).state_dict()
    for key in expected:
        if key.endswith("outer.weight"):
            expected[key] /= math.sqrt(blocks)
    torch.manual_seed(0)
    scaled = of_points("mlp-residual", blocks=blocks, initialisation="scaled")
    torch.testing.assert_close(scaled.state_dict(), expected)


def test_without_scaling_deep_residual_blocks_begin_with_huge_logits() -> None:
    points = torch.randn(100, 2)
    kaiming = of_points("mlp-residual", blocks=25)(points)
    scaled = of_points("mlp-residual", blocks=25, initialisation="scaled")(points)
    assert kaiming.std() > 100 * scaled.std()


@pytest.mark.parametrize("name", MLPS)
def test_biases_start_at_0(name: str) -> None:
    assert not any(layer.bias.any() for layer in linear_layers(of_points(name)))


def silenced(block: MlpBlock) -> MlpBlock:
    """The block with nothing coming out of its layers: only the skip carries anything."""
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    return block


def test_a_residual_block_adds_its_input_before_the_last_activation() -> None:
    x = torch.randn(8, 20)
    torch.testing.assert_close(silenced(MlpBlock(20, skip=True))(x), x.relu())


def test_nothing_passes_a_silenced_plain_block() -> None:
    assert not silenced(MlpBlock(20, skip=False))(torch.randn(8, 20)).any()


def test_a_skip_leaves_its_input_as_it_was() -> None:
    x = torch.randn(8, 20)
    before = x.clone()
    MlpBlock(20, skip=True)(x)
    assert torch.equal(x, before)


def test_the_pair_differ_by_their_skips_alone() -> None:
    plain, residual = of_points("mlp-plain"), of_points("mlp-residual")
    residual.load_state_dict(plain.state_dict())
    points = torch.randn(8, 2)
    assert not torch.allclose(residual(points), plain(points))
    for module in residual.modules():
        if isinstance(module, MlpBlock):
            module.skip = False
    assert torch.equal(residual(points), plain(points))


@few
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3), classes=sizes)
@pytest.mark.parametrize("name", MLPS)
def test_samples_of_any_shape_are_flattened(name: str, shape: list[int], classes: int) -> None:
    network = on_meta(name, tuple(shape), classes)
    assert network(torch.empty(5, *shape, device="meta")).shape == (5, classes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"depth": 0}, "mlp: depth must be at least 1, got 0"),
        ("mlp", {"width": 0}, "mlp: width must be at least 1, got 0"),
        ("mlp-plain", {"blocks": 0}, "mlp-plain: blocks must be at least 1, got 0"),
        ("mlp-residual", {"blocks": [2, 2]}, "mlp-residual: Expected `int`, got `array` - at `$.blocks`"),
        ("mlp-plain", {"depth": 4}, "mlp-plain has no option 'depth' (it has width, blocks)"),
        ("mlp-plain", {"initialisation": "scaled"}, "mlp-plain has no option 'initialisation'"),
    ],
)
def test_an_impossible_option_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as refusal:
        check(name, options)
    assert str(refusal.value).startswith(message)


def test_points_may_be_given_to_perceptrons_and_to_builders_that_are_not_ours() -> None:
    assert [network.name for network in listed() if takes_points(network.name)] == MLPS
    assert takes_points("nets/mine.py:build")


def test_whether_an_unknown_network_takes_points_cannot_be_told() -> None:
    with pytest.raises(UnknownNetworkError, match="did you mean 'mlp'"):
        takes_points("mpl")


@pytest.mark.parametrize("name", [network.name for network in listed() if network.name not in MLPS])
def test_a_network_that_does_not_take_points_refuses_to_be_built_for_them(name: str) -> None:
    with pytest.raises(ModelError, match=r"needs images \(C, H, W\)"):
        on_meta(name)


@pytest.mark.parametrize("name", MLPS)
def test_perceptrons_are_described_on_the_spirals_of_their_study(name: str) -> None:
    assert (find(name).input_shape, find(name).classes) == ((2,), 2)
