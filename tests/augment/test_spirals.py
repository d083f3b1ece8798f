"""The drawn points: two spirals that follow their formula, and noise of the stated strength."""

import numpy as np
import pytest

from augment import spirals


def test_without_noise_the_radius_grows_evenly_to_2_over_two_turns() -> None:
    """At every quarter turn, by hand: t = 0, π/2 … 4π and a radius of t / 2π."""
    points, labels = spirals.draw(9, seed=0, noise=0)
    first = [(0, 0), (0, 0.25), (-0.5, 0), (0, -0.75), (1, 0), (0, 1.25), (-1.5, 0), (0, -1.75), (2, 0)]
    np.testing.assert_allclose(points[labels == 0], first, atol=1e-6)


def test_the_second_spiral_is_the_first_turned_by_half_a_turn() -> None:
    points, labels = spirals.draw(100, seed=0, noise=0)
    np.testing.assert_allclose(points[labels == 1], -points[labels == 0], atol=1e-6)


def test_the_noise_is_normal_of_deviation_008_along_the_radius() -> None:
    n = 20_000
    points, labels = spirals.draw(n, seed=0)
    angle = np.linspace(0, 4 * np.pi, n)
    outward = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    for label, sign in ((0, 1), (1, -1)):
        spiral = sign * points[labels == label]
        noise = (spiral * outward).sum(axis=1) - angle / (2 * np.pi)
        # Bounds of four standard errors; for a normal distribution 68.27 % are within one deviation.
        assert abs(noise.mean()) < 4 * 0.08 / n**0.5
        assert noise.std() == pytest.approx(0.08, abs=4 * 0.08 / (2 * n) ** 0.5)
        assert (abs(noise) < 0.08).mean() == pytest.approx(0.6827, abs=4 * (0.6827 * 0.3173 / n) ** 0.5)
        assert abs((spiral * across).sum(axis=1)).max() < 1e-6


def test_the_two_spirals_have_noise_of_their_own() -> None:
    points, labels = spirals.draw(50, seed=0)
    apart = np.linalg.norm(points[labels == 1] + points[labels == 0], axis=1)
    assert (apart > 0.001).mean() > 0.9


def test_half_of_the_points_are_of_each_class() -> None:
    points, labels = spirals.draw(7, seed=0)
    assert (points.shape, points.dtype, labels.dtype) == ((14, 2), np.float32, np.int64)
    assert np.bincount(labels).tolist() == [7, 7]


def test_a_seed_draws_the_same_points() -> None:
    first, second = (spirals.draw(20, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_draws_other_points() -> None:
    first, second = (spirals.draw(20, seed=seed)[0] for seed in (3, 4))
    assert (first != second).any(axis=1).all()


def test_the_points_are_the_same_for_ever() -> None:
    """Those of seed 42: the noise of the first is the first normal number of that seed, 0.4967, times 0.08."""
    points, _ = spirals.draw(500, seed=42)
    np.testing.assert_allclose(points[[0, -1]], [[0.03973713, 0], [-2.04580665, 0]], atol=1e-7)
