"""Two interleaved spirals in the plane: the data of the study of depth in small perceptrons, drawn from a seed.

The angle t of a spiral goes evenly from 0 to 4π, its radius is 2 t / 4π plus noise; the second spiral is the first
turned by π. So neighbouring arms are 0.5 apart, six standard deviations of the noise, and only in the centre, where
both spirals begin, do the classes overlap.
"""

import math

import numpy as np
import numpy.typing as npt

VERSION = 1  # raise it when the points change
TRAIN_SEED, TEST_SEED = 42, 43
POINTS_PER_CLASS = 500
CLASSES = ("first", "second")

LAST_ANGLE = 4 * math.pi  # two turns
LAST_RADIUS = 2.0
NOISE = 0.08  # standard deviation, of the radius


def draw(
    points_per_class: int, seed: int, noise: float = NOISE
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Points (N, 2) float32 and their labels (N,) int64: all of the first spiral, from its centre, then the second."""
    angle = np.linspace(0, LAST_ANGLE, points_per_class)
    # RandomState's stream is frozen for good (NEP 19): the points are the same with every numpy.
    radius = LAST_RADIUS * angle / LAST_ANGLE + np.random.RandomState(seed).normal(0, noise, (2, points_per_class))
    turned = angle + math.pi * np.arange(2)[:, None]
    points = np.stack([radius * np.cos(turned), radius * np.sin(turned)], axis=-1)
    return points.reshape(-1, 2).astype(np.float32), np.arange(2).repeat(points_per_class)
