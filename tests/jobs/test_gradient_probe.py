"""The gradient probe: what reaches each parameter, and a verdict that is right about networks people know."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from augment.datasets import DataRequest, load
from jobs.diagnostics.gradients import (
    EXPLODING,
    LEAST_RATIO,
    MOST_RATIO,
    VANISHING,
    ParameterGradient,
    Verdict,
    judge,
    probe,
)
from jobs.errors import GpuqError
from models.registry import build

Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="session")
def images(cache_dir: Path) -> Batch:
    """16 images of `shapes`, standardised per channel."""
    part = load(DataRequest("shapes"), cache_dir).train
    pixels = torch.from_numpy(part.images[:16]).float()
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    return (pixels - mean) / std, torch.from_numpy(part.labels[:16])


def points() -> Batch:
    """Points of the plane, labelled by quadrant."""
    values = torch.randn(200, 2)
    return values, (values.prod(1) > 0).long()


def mlp(activation: str, depth: int) -> nn.Module:
    return build("mlp", {"activation": activation, "depth": depth}, input_shape=(2,), classes=2)


def row(gradient: float, weight: float = 1.0, shape: tuple[int, ...] = (3, 3)) -> ParameterGradient:
    ratio = gradient / weight if weight else None
    return ParameterGradient(
        name="", shape=shape, gradient_norm=gradient, mean_absolute=gradient, weight_norm=weight, ratio=ratio
    )


def rows(*gradients: float) -> list[ParameterGradient]:
    return [row(gradient) for gradient in gradients]


def test_the_figures_are_those_of_a_backward_pass() -> None:
    network, (values, labels) = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), points()
    found = probe(network, values, labels)
    loss = F.cross_entropy(network(values), labels)
    loss.backward()
    assert found.loss == pytest.approx(loss.item())
    for (name, parameter), of in zip(network.named_parameters(), found.parameters, strict=True):
        assert parameter.grad is not None
        assert (of.name, of.shape) == (name, tuple(parameter.shape))
        assert of.gradient_norm == pytest.approx(parameter.grad.norm().item(), rel=1e-5)
        assert of.mean_absolute == pytest.approx(parameter.grad.abs().mean().item(), rel=1e-5)
        assert of.weight_norm == pytest.approx(parameter.norm().item(), rel=1e-5)
        assert of.ratio == pytest.approx((parameter.grad.norm() / parameter.norm()).item(), rel=1e-5)


def test_gradients_and_statistics_of_the_network_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    network[0].weight.grad = torch.ones(3, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe(network, *points())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    kept = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert kept == {"0.weight"}
    assert torch.equal(network[0].weight.grad, torch.ones(3, 2))


def test_parameters_without_gradient_are_left_out() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    network[0].weight.requires_grad_(False)
    network.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    assert [of.name for of in probe(network, *points()).parameters] == ["0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize("network", [nn.Identity(), nn.Linear(2, 2).requires_grad_(False)], ids=["none", "frozen"])
def test_a_network_with_nothing_to_train_is_refused(network: nn.Module) -> None:
    with pytest.raises(GpuqError, match="nothing to train"):
        probe(network, *points())


def test_zero_weights_have_no_ratio() -> None:
    network = nn.Linear(2, 2)
    nn.init.zeros_(network.bias)
    assert [of.ratio is None for of in probe(network, *points()).parameters] == [False, True]


def test_a_gradient_whose_square_is_zero_in_float32_is_told() -> None:
    values, labels = points()
    weight = probe(nn.Linear(2, 2), values * 1e-30, labels).parameters[0]
    assert 1e-32 < weight.gradient_norm < 1e-29


def test_gradients_are_computed_where_the_caller_has_turned_them_off() -> None:
    with torch.no_grad():
        assert probe(nn.Linear(2, 2), *points()).parameters[0].gradient_norm > 0


@pytest.mark.parametrize("depth", [8, 16])
def test_deep_sigmoid_networks_vanish(depth: int) -> None:
    assert probe(mlp("sigmoid", depth), *points()).verdict is Verdict.VANISHING


@pytest.mark.parametrize("depth", [4, 8, 16, 32])
def test_kaiming_keeps_relu_networks_healthy(depth: int) -> None:
    assert probe(mlp("relu", depth), *points()).verdict is Verdict.HEALTHY


@pytest.mark.parametrize(
    ("name", "options", "verdict"),
    [
        ("vggnet", {}, Verdict.VANISHING),
        ("vgg38", {}, Verdict.VANISHING),
        ("vgg08", {}, Verdict.HEALTHY),
        ("vgg38", {"bn": True, "rc": True}, Verdict.HEALTHY),
        ("vggnet-bn", {}, Verdict.HEALTHY),
        ("resnet", {}, Verdict.HEALTHY),
        ("resnet-56", {}, Verdict.HEALTHY),
        ("plainnet-56", {}, Verdict.HEALTHY),
        ("plainnet-110", {}, Verdict.EXPLODING),
    ],
)
def test_the_studies_networks_at_their_start(
    name: str, options: dict[str, bool], verdict: Verdict, images: Batch
) -> None:
    network = build(name, options, input_shape=(3, 32, 32), classes=10)
    assert probe(network, *images).verdict is verdict


@pytest.mark.parametrize("name", ["vgg08", "vggnet"])
def test_weights_ten_times_too_large_explode(name: str, images: Batch) -> None:
    network = build(name, {}, input_shape=(3, 32, 32), classes=10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    assert probe(network, *images).verdict is Verdict.EXPLODING


def test_gradients_that_grow_on_their_way_back_explode_however_small_the_loss() -> None:
    layers = [nn.Linear(20, 20) for _ in range(24)]
    for linear in layers:
        nn.init.normal_(linear.weight)
    network = nn.Sequential(nn.Linear(2, 20), *(nn.Sequential(nn.Tanh(), linear) for linear in layers))
    found = probe(network, *points())
    assert found.loss < 10
    assert found.verdict is Verdict.EXPLODING


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.floats(0.01, 100))
def test_how_neighbouring_layers_share_their_scale_does_not_matter(scale: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 9, bias=False), nn.ReLU(), nn.Linear(9, 2, bias=False))
    batch = points()
    before = [of.pull for of in probe(network, *batch).parameters]
    with torch.no_grad():
        network[0].weight.mul_(scale)
        network[2].weight.div_(scale)
    assert [of.pull for of in probe(network, *batch).parameters] == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize(
    ("gradients", "verdict"),
    [
        ((1, 1, 1, 1, 1, 1), Verdict.HEALTHY),
        ((VANISHING * 1.01, 1, 1), Verdict.HEALTHY),
        ((VANISHING * 0.99, 1, 1), Verdict.VANISHING),
        ((0, 0, 1, 1, 1, 1), Verdict.VANISHING),
        ((EXPLODING * 0.99, 1, 1), Verdict.HEALTHY),
        ((EXPLODING * 1.01, 1, 1), Verdict.EXPLODING),
        ((0, 0, 0), Verdict.VANISHING),
        ((LEAST_RATIO / 2, LEAST_RATIO / 2, LEAST_RATIO / 2), Verdict.VANISHING),
        ((MOST_RATIO * 2, MOST_RATIO * 2, MOST_RATIO * 2), Verdict.EXPLODING),
        ((1,), Verdict.HEALTHY),
        ((), Verdict.HEALTHY),
    ],
)
def test_the_first_third_is_compared_with_the_last(gradients: Sequence[float], verdict: Verdict) -> None:
    assert judge(1.0, rows(*gradients)) is verdict


def test_one_layer_out_of_line_does_not_decide() -> None:
    assert judge(1.0, rows(1e-6, 1, 1, 1, 1, 1, 1, 1, 1)) is Verdict.HEALTHY


def test_biases_and_weights_of_zero_are_not_compared() -> None:
    shifts = [row(1e-9, shape=(3,)), row(1e-9, weight=0.0)]
    assert judge(1.0, [*shifts, *rows(1, 1, 1)]) is Verdict.HEALTHY


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_explodes(value: float) -> None:
    assert judge(value, rows(1, 1, 1)) is Verdict.EXPLODING
    assert judge(1.0, [row(value, shape=(3,)), *rows(1, 1, 1)]) is Verdict.EXPLODING
    assert judge(1.0, [row(1.0, weight=value), *rows(1, 1, 1)]) is Verdict.EXPLODING


def test_a_loss_beyond_float32_explodes() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for module in network:
        nn.init.constant_(module.weight, 1e30)
    assert probe(network, *points()).verdict is Verdict.EXPLODING
