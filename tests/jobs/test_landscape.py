"""The loss around a network: directions, rows, restoration, and roughness."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from jobs.diagnostics.landscape import Landscape, LandscapeSettings, Row, explore, roughness, shape
from jobs.diagnostics.plane import Plane, random_direction
from jobs.errors import GpuqError

PROPERTY = settings(deadline=None, max_examples=30, derandomize=True)
SETTINGS = LandscapeSettings(grid=5)


@pytest.fixture
def network() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()


def evaluation(network: nn.Module) -> Callable[[], float]:
    """The network's mean loss on images drawn from the test's seed."""
    images, labels = torch.randn(6, 3, 4, 4), torch.arange(6) % 3
    return lambda: F.cross_entropy(network(images), labels).item()


def values(network: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def landscape(losses: np.ndarray) -> Landscape:
    return Landscape(grid=len(losses), images=1, losses=losses.tolist())


@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (10, 64), (7, 1)])
def test_each_filter_of_a_direction_is_as_long_as_the_weight_s_own(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape) * torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    direction = random_direction(weight, torch.Generator().manual_seed(1))
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))


def test_a_direction_is_a_normal_draw_but_for_the_length_of_its_filters() -> None:
    direction = random_direction(torch.ones(4, 2500), torch.Generator().manual_seed(1))
    assert direction.mean().item() == pytest.approx(0, abs=0.03)
    assert direction.pow(4).mean().item() == pytest.approx(3, abs=0.2)  # the kurtosis of a normal distribution


def test_the_two_directions_differ(network: nn.Module) -> None:
    plane = Plane(network, seed=1)
    assert not any(torch.equal(first, second) for first, second in zip(plane.first, plane.second, strict=True))


def test_a_seed_gives_the_same_landscape_again(network: nn.Module) -> None:
    evaluate = evaluation(network)
    assert list(explore(network, evaluate, SETTINGS)) == list(explore(network, evaluate, SETTINGS))


def test_another_seed_gives_another_landscape(network: nn.Module) -> None:
    evaluate = evaluation(network)
    other = msgspec.structs.replace(SETTINGS, seed=7)
    assert list(explore(network, evaluate, SETTINGS)) != list(explore(network, evaluate, other))


def test_only_weights_of_two_or_more_dimensions_move(network: nn.Module) -> None:
    before = values(network)
    moved: set[str] = set()

    def evaluate() -> float:
        moved.update(name for name, value in network.state_dict().items() if not torch.equal(value, before[name]))
        return 0.0

    list(explore(network, evaluate, SETTINGS))
    assert moved == {"0.weight", "4.weight"}


def test_a_network_without_such_weights_is_refused() -> None:
    with pytest.raises(GpuqError, match="no weights of two or more dimensions"):
        list(explore(nn.BatchNorm2d(3), lambda: 0.0, SETTINGS))


def test_the_landscape_of_a_sum_of_squares_is_known_in_closed_form() -> None:
    network = nn.Linear(3, 2)
    theta, plane = network.weight.detach().clone(), Plane(network, SETTINGS.seed)
    rows = list(explore(network, lambda: network.weight.square().sum().item(), SETTINGS))
    for alpha, row in zip(SETTINGS.coordinates, rows, strict=True):
        points = [theta + alpha * plane.first[0] + beta * plane.second[0] for beta in SETTINGS.coordinates]
        assert row == pytest.approx([point.square().sum().item() for point in points], rel=1e-6)


def test_the_loss_in_the_middle_is_exactly_the_network_s_own(network: nn.Module) -> None:
    evaluate = evaluation(network)
    assert list(explore(network, evaluate, SETTINGS))[2][2] == evaluate()


def test_the_weights_are_restored_bit_for_bit_after_every_row(network: nn.Module) -> None:
    before = values(network)
    for _ in explore(network, evaluation(network), SETTINGS):
        assert same_bits(values(network), before)


def test_the_weights_are_restored_bit_for_bit_at_the_end(network: nn.Module) -> None:
    before = values(network)
    list(explore(network, evaluation(network), SETTINGS))
    assert same_bits(values(network), before)


def test_the_weights_are_restored_bit_for_bit_when_the_caller_stops_early(network: nn.Module) -> None:
    before = values(network)
    rows = explore(network, evaluation(network), SETTINGS)
    next(rows)
    rows.close()
    assert same_bits(values(network), before)


def test_the_weights_are_restored_bit_for_bit_when_evaluating_fails(network: nn.Module) -> None:
    before, left = values(network), iter(range(7))

    def evaluate() -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        list(explore(network, evaluate, SETTINGS))
    assert same_bits(values(network), before)


@PROPERTY
@given(done=st.integers(0, 5))
def test_exploring_goes_on_after_the_rows_already_done(done: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    evaluate = evaluation(network)
    rows = list(explore(network, evaluate, SETTINGS))
    assert list(explore(network, evaluate, SETTINGS, rows[:done])) == rows[done:]


def test_gradients_are_off_while_evaluating(network: nn.Module) -> None:
    rows = list(explore(network, lambda: float(torch.is_grad_enabled()), SETTINGS))
    assert rows == [[0.0] * 5] * 5


def test_gradients_are_as_the_caller_has_them_between_rows(network: nn.Module) -> None:
    assert [torch.is_grad_enabled() for _ in explore(network, evaluation(network), SETTINGS)] == [True] * 5


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_none(network: nn.Module, loss: float) -> None:
    assert next(explore(network, lambda: loss, SETTINGS)) == [None] * 5


@PROPERTY
@given(grid=st.integers(3, 101), span=st.floats(0.01, 100))
def test_coordinates_are_exactly_symmetric_about_0_and_end_at_the_span(grid: int, span: float) -> None:
    coordinates = LandscapeSettings(grid=grid, span=span).coordinates
    assert coordinates == tuple(-coordinate for coordinate in reversed(coordinates))
    assert (len(coordinates), coordinates[-1]) == (grid, span)


def test_a_landscape_is_read_back_from_json_as_it_was() -> None:
    rows: list[Row] = [[0.1, None, 1e300], [1 / 3, 2.0, 3.0]]
    saved = Landscape(grid=3, images=10, losses=rows, evaluations_per_s=2.5)
    assert msgspec.json.decode(msgspec.json.encode(saved), type=Landscape) == saved


@pytest.mark.parametrize(
    "losses", ["[[1, 2]]", "[[1, 2, 3], [4]]", "[[], [], []]", "[[1, 2, 3]" + ", [1, 2, 3]" * 3 + "]"]
)
def test_rows_that_do_not_fit_the_grid_are_refused(losses: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="at most 3 rows of 3"):
        msgspec.json.decode(f'{{"grid": 3, "images": 1, "losses": {losses}}}', type=Landscape)


def test_a_landscape_is_complete_with_all_its_rows() -> None:
    known = [Landscape(grid=3, images=1, losses=[[0.0] * 3] * rows).complete for rows in range(4)]
    assert known == [False, False, False, True]


def test_a_saved_landscape_is_read_without_torch() -> None:
    code = "import sys, jobs.diagnostics.landscape; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@PROPERTY
@given(slopes=st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=1, max_size=6))
def test_a_convex_surface_has_no_roughness(slopes: list[tuple[float, float, float]]) -> None:
    x, y = np.meshgrid(*[np.linspace(-1, 1, 7)] * 2, indexing="ij")
    greatest = np.max([a * x + b * y + c for a, b, c in slopes], axis=0)  # of planes: convex, with kinks
    assert roughness(landscape(greatest + 10)) == 0


def test_a_concave_surface_is_rough_everywhere() -> None:
    x, y = np.meshgrid(*[np.linspace(-1, 1, 7)] * 2)
    assert roughness(landscape(5 - x**2 - y**2)) == 1


@pytest.mark.parametrize("turned", range(8))
def test_a_surface_bent_down_in_one_direction_alone_is_rough(turned: int) -> None:
    x, y = np.meshgrid(*[np.linspace(-1, 1, 5)] * 2)
    angle = turned * math.pi / 8
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    assert roughness(landscape(2 * across**2 - along**2)) == 1


def test_roughness_is_the_share_of_inner_points() -> None:
    losses = np.zeros((6, 6))
    losses[1, 1] = 1.0  # a bump in a corner of 4 × 4 inner points
    assert roughness(landscape(losses)) == 1 / 16


def test_points_beside_a_loss_that_is_not_finite_do_not_count() -> None:
    losses = np.zeros((6, 6))
    losses[1, 1] = 1.0
    losses[5, 5] = np.nan  # takes the inner point (4, 4) away
    assert roughness(landscape(losses)) == 1 / 15


def test_the_rounding_of_float32_is_not_roughness() -> None:
    plateau = np.full((7, 7), math.log(10)) + 1e-7 * np.random.default_rng(1).normal(size=(7, 7))
    assert roughness(landscape(plateau)) == 0


def test_roughness_of_nothing_finite_is_refused() -> None:
    with pytest.raises(GpuqError, match="no point"):
        roughness(landscape(np.full((5, 5), np.nan)))


def test_the_shape_is_of_finite_losses_but_for_the_share_near_the_network() -> None:
    found = shape(Landscape(grid=3, images=1, loss=1.0, losses=[[1.0, 1.9, 2.0], [3.0, None, None], [None, 5.0, 6.0]]))
    assert (found.median, found.highest) == (2.5, 6.0)
    assert found.near == 2 / 9
    assert found.roughness is None


def test_the_share_near_a_network_of_unknown_loss_is_unknown() -> None:
    assert shape(Landscape(grid=3, images=1, losses=[[1.0] * 3] * 3)).near is None


def test_a_landscape_without_a_finite_loss_has_no_shape() -> None:
    with pytest.raises(GpuqError, match="no finite loss"):
        shape(Landscape(grid=3, images=1, losses=[[None] * 3] * 3))
