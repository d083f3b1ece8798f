"""Ten classes of figures drawn from a seed: data for the quickstart and the tests, with nothing to download.

A figure is a signed distance on the plane, negative inside, and reaches about 1 from its centre. A pixel's
distance, in pixels, says how much of it is covered: anti-aliasing for the price of a clip. Place, size, angle
and colours are random, and a figure may be lighter or darker than its background, so that no pixel by itself
tells the class. No figure is a rotation or a mirror image of another, and none is known by its colour.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1  # raise it when the drawings change
SEED = 20_261_121
SIZE = 32
TRAIN_IMAGES, TEST_IMAGES = 5_000, 1_000

RADIUS = (8.0, 12.0)  # pixels
ANGLE = (-math.radians(15), math.radians(15))
BRIGHTNESS = (0.35, 0.65)  # half-way between figure and background
CONTRAST = (0.35, 0.6)  # of luminance
SLOPE = (-0.15, 0.15)  # change of the background's luminance from edge to edge
TINT = (-0.3, 0.3)
NOISE = 0.08  # standard deviation

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in torchvision's grayscale

Floats = npt.NDArray[np.floating[Any]]


def draw(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """`count` images (N, 3, 32, 32) uint8 and their labels (N,) int64; the classes take turns."""
    draws = _Draws(count, seed)
    labels = np.arange(count, dtype=np.int64) % len(FIGURES)
    cover = _cover(labels, draws)
    brightness, half = draws.uniform(BRIGHTNESS), draws.sign() * draws.uniform(CONTRAST) / 2
    background = brightness - half + _shade(draws) + _tint(draws)
    figure = brightness + half + _tint(draws)
    pixels = background + cover * (figure - background) + draws.noise()
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8), labels


class _Draws:
    """Random numbers, one for each of `count` images, shaped to broadcast over (N, C, H, W)."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._random = np.random.default_rng(seed)

    def uniform(self, bounds: tuple[float, float], channels: int = 1) -> Floats:
        low, high = bounds
        return (low + (high - low) * self._unit(channels)).astype(np.float32)

    def sign(self) -> Floats:
        return np.where(self._unit(1) < 0.5, np.float32(-1), np.float32(1))

    def noise(self) -> Floats:
        shape = (self._count, 3, SIZE, SIZE)
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(NOISE)

    def _unit(self, channels: int) -> Floats:
        return self._random.random((self._count, channels, 1, 1), dtype=np.float32)


def _cover(labels: npt.NDArray[np.int64], draws: _Draws) -> Floats:
    """How much of each pixel the figure covers, (N, 1, H, W)."""
    radius, angle = draws.uniform(RADIUS), draws.uniform(ANGLE)
    room = SIZE / 2 - radius
    across = (_ramp(axis=3) * SIZE - room * draws.uniform((-1, 1))) / radius
    down = (_ramp(axis=2) * SIZE - room * draws.uniform((-1, 1))) / radius
    x = np.cos(angle) * across + np.sin(angle) * down
    y = np.cos(angle) * down - np.sin(angle) * across
    distance = np.empty_like(x)
    for label, figure in enumerate(FIGURES.values()):
        distance[labels == label] = figure(x[labels == label], y[labels == label])
    return (0.5 - distance * radius).clip(0, 1)


def _shade(draws: _Draws) -> Floats:
    """A linear change of luminance across the image, (N, 1, H, W)."""
    return draws.uniform(SLOPE) * _ramp(axis=3) + draws.uniform(SLOPE) * _ramp(axis=2)


def _tint(draws: _Draws) -> Floats:
    """A colour cast (N, 3, 1, 1) of no luminance: what grayscale takes away is never what tells the class."""
    cast = draws.uniform(TINT, channels=3)
    luminance: Floats = (cast * _LUMINANCE[:, None, None]).sum(axis=1, keepdims=True)
    return cast - luminance


def _ramp(axis: int) -> Floats:
    """Centres of the pixels along one axis of (N, C, H, W), the image reaching from -1/2 to 1/2."""
    shape = [1, 1, 1, 1]
    shape[axis] = SIZE
    return ((np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5).reshape(shape)


def disc(x: Floats, y: Floats) -> Floats:
    return _circle(x, y, 0.9)


def ring(x: Floats, y: Floats) -> Floats:
    return _outline(_circle(x, y, 0.75), 0.2)


def square(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.8, 0.8)


def frame(x: Floats, y: Floats) -> Floats:
    return _outline(_box(x, y, 0.7, 0.7), 0.17)


def triangle(x: Floats, y: Floats) -> Floats:
    """Equilateral: its sides are half as far from the centre as its corners."""
    return _edges(x, -y, 3, math.pi / 2) - 0.5


def cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 1.0, 0.28), _box(x, y, 0.28, 1.0))


def star(x: Floats, y: Floats) -> Floats:
    """A pentagram: five points, each with edges at 18° to its axis."""
    return _edges(x, y, 5, math.pi / 10) - math.sin(math.pi / 10)


def bars(x: Floats, y: Floats) -> Floats:
    """Three: the plane's stripes of period 0.6, cut to a box."""
    return np.maximum(_outline((x + 0.3) % 0.6 - 0.3, 0.15), _box(x, y, 0.75, 0.9))


def dots(x: Floats, y: Floats) -> Floats:
    """Four: one in each quadrant."""
    return _circle(np.abs(x) - 0.6, np.abs(y) - 0.6, 0.33)


def crescent(x: Floats, y: Floats) -> Floats:
    return np.maximum(_circle(x, y, 0.95), -_circle(x - 0.5, y, 0.75))


FIGURES: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
    {figure.__name__: figure for figure in (disc, ring, square, frame, triangle, cross, star, bars, dots, crescent)}
)
CLASSES = tuple(FIGURES)


def _circle(x: Floats, y: Floats, radius: float) -> Floats:
    return np.sqrt(x * x + y * y) - radius


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _outline(distance: Floats, half_width: float) -> Floats:
    return np.abs(distance) - half_width


def _edges(x: Floats, y: Floats, points: int, tilt: float) -> Floats:
    """Distance from edges through the centre, two to each of `points` axes, turned from it by `tilt`.

    The plane is folded onto half a sector; the first axis points up (-y).
    """
    sector = 2 * math.pi / points
    turn = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    distance: Floats = _circle(x, y, 0) * np.sin(turn + tilt)
    return distance
