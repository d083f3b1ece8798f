"""Class probabilities around points in the plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jobs.diagnostics.boundary import evaluate
from jobs.errors import GpuqError

POINTS = torch.tensor([[-1.0, 0.0], [3.0, 2.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 1, 1])


def identity(points: Tensor) -> Tensor:
    return points


def linear(weight: list[list[float]]) -> nn.Linear:
    network = nn.Linear(2, len(weight), bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor(weight))
    return network


def test_the_grid_spans_the_points_and_a_margin_of_the_larger_side() -> None:
    boundary = evaluate(linear([[0, 0], [1, 0]]), POINTS, LABELS, identity, grid=5, margin=0.5)
    assert boundary.x.tolist() == [-3, -1, 1, 3, 5]
    assert boundary.y.tolist() == [-2, -0.5, 1, 2.5, 4]


def test_points_that_are_all_the_same_have_something_around_them() -> None:
    boundary = evaluate(linear([[0, 0], [1, 0]]), torch.ones(4, 2), torch.zeros(4), identity, grid=3, margin=0.5)
    assert boundary.x.tolist() == [0.5, 1, 1.5]


def test_probabilities_are_the_softmax_at_the_grid_s_points() -> None:
    boundary = evaluate(linear([[0, 0], [1, 2]]), POINTS, LABELS, identity, grid=7)  # logit of class 1: x + 2 y
    logit = boundary.x[None, :] + 2 * boundary.y[:, None]
    np.testing.assert_allclose(boundary.probabilities[..., 1], 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_any_number_of_classes_has_probabilities_that_sum_to_1() -> None:
    boundary = evaluate(linear([[0, 1], [1, 0], [-1, 0], [2, 2]]), POINTS, LABELS, identity, grid=4)
    assert boundary.probabilities.shape == (4, 4, 4)
    np.testing.assert_allclose(boundary.probabilities.sum(axis=-1), 1, rtol=1e-6)


def test_the_network_sees_points_as_the_caller_turns_them_into_inputs() -> None:
    seen: list[Tensor] = []
    network = linear([[0, 0], [1, 1]])
    network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    boundary = evaluate(network, POINTS, LABELS, lambda points: points / 100 + 7, grid=3)
    expected = np.stack(np.meshgrid(boundary.x, boundary.y), axis=-1).reshape(-1, 2) / 100 + 7
    np.testing.assert_allclose(torch.cat(seen).numpy(), expected, rtol=1e-6)


def test_a_grid_of_more_points_than_a_batch_is_evaluated_whole() -> None:
    boundary = evaluate(linear([[0, 0], [1, 0]]), POINTS, LABELS, identity, grid=150)  # 22,500 points
    np.testing.assert_array_equal(np.diff(boundary.probabilities[..., 1], axis=0), 0)
    assert (np.diff(boundary.probabilities[..., 1], axis=1) > 0).all()


def test_the_data_are_kept_for_the_picture() -> None:
    boundary = evaluate(linear([[0, 0], [1, 0]]), POINTS, LABELS, identity, grid=3)
    assert (boundary.points.tolist(), boundary.labels.tolist()) == (POINTS.tolist(), LABELS.tolist())


@pytest.mark.parametrize("shape", [(10, 3), (4, 3, 8, 8), (0, 2)])
def test_data_that_are_not_points_in_the_plane_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GpuqError, match="2 coordinates"):
        evaluate(linear([[0, 0], [1, 0]]), torch.zeros(shape), torch.zeros(shape[0]), identity)


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(GpuqError, match="not finite"):
        evaluate(linear([[0, 0], [float("nan"), 0]]), POINTS, LABELS, identity, grid=3)
