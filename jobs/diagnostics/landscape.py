"""The loss around a network, over a plane of its weights: what is asked, what was found, and how rough it is.

torch is imported when a network is moved: a saved landscape is read, judged and drawn without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from jobs.errors import GpuqError
from jobs.spec import Seed

if TYPE_CHECKING:
    from torch import nn

Row = list[float | None]  # losses; None stands for one that is infinite or not a number, which JSON cannot say
Surface = NDArray[np.float64]

_ROUNDING = 1e-6  # a bend of less than this share of the loss may come from sums in float32


class LandscapeSettings(Struct, frozen=True, kw_only=True):
    """A square grid of points (α, β); see `jobs.diagnostics.plane` for what α and β multiply."""

    grid: Annotated[int, Meta(ge=3)] = 25  # points a side; if odd, the network itself is the one in the middle
    span: Annotated[float, Meta(gt=0)] = 1.0  # α and β run from -span to span
    seed: Seed = 42  # of the two directions

    @property
    def coordinates(self) -> tuple[float, ...]:
        """What α and β run through: as many below as above 0, at the same distances."""
        last = self.grid - 1
        return tuple(self.span * ((2 * i - last) / last) for i in range(self.grid))


class Landscape(LandscapeSettings, frozen=True, kw_only=True):
    """A landscape as far as it has been explored: `losses[i][j]` belongs to α = coordinates[i], β = coordinates[j]."""

    images: int  # the mean loss is that over as many
    loss: float | None = None  # of the network itself: a landscape of other weights is known by another
    losses: list[Row] = []
    evaluations_per_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.losses) > self.grid or any(len(row) != self.grid for row in self.losses):
            raise ValueError(f"losses: expected at most {self.grid} rows of {self.grid}")

    @property
    def complete(self) -> bool:
        return len(self.losses) == self.grid

    def surface(self) -> Surface:
        """The losses as an array (rows explored, grid); NaN where they are not finite."""
        return np.array(self.losses, dtype=np.float64).reshape(-1, self.grid)


def explore(
    network: nn.Module, evaluate: Callable[[], float], settings: LandscapeSettings, done: Sequence[Row] = ()
) -> Generator[Row, None, None]:
    """Yield the landscape row by row, α rising, beginning after the rows already done.

    `evaluate` gives the mean loss of `network` as it stands when called; the network's mode is the caller's, and
    autocast is entered inside `evaluate` (it keeps casts of weights that have moved since). Gradients are off in it.

    At every yield, and however exploring ends, the weights are bit for bit what they were. Meanwhile memory holds
    them three times more: parameters of two and more dimensions, once as they were and once for each direction.
    """
    from jobs.diagnostics.plane import Plane

    plane = Plane(network, settings.seed)
    for alpha in settings.coordinates[len(done) :]:
        losses = plane.losses([(alpha, beta) for beta in settings.coordinates], evaluate)
        yield [loss if math.isfinite(loss) else None for loss in losses]


class Shape(Struct, frozen=True, kw_only=True):
    """A landscape in figures; what is not finite is left out, but for `near`."""

    median: float
    highest: float
    near: float | None  # share of the points where the loss is less than twice the network's own, if that is known
    roughness: float | None  # see `roughness`; None where no point counts


def shape(landscape: Landscape) -> Shape:
    """Raises GpuqError for a landscape without a finite loss."""
    losses = landscape.surface()
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise GpuqError("the landscape has no finite loss")
    rough = None
    with suppress(GpuqError):
        rough = roughness(landscape)
    return Shape(
        median=float(np.median(finite)),
        highest=float(finite.max()),
        near=None if landscape.loss is None else float((losses < 2 * landscape.loss).mean()),
        roughness=rough,
    )


def roughness(landscape: Landscape) -> float:
    """The share of the grid's inner points where the loss is not convex, from 0 to 1.

    That is where, along α, β or a diagonal, the loss lies above the mean of its two neighbours: a negative second
    difference. One such point proves that the network's loss is not convex in all its weights either, as Li et al.
    2018 (arXiv:1712.09913, section 6) argue of curvatures; a convex loss has roughness 0 along any plane.

    Points with a neighbour that is not finite do not count. Raises GpuqError if no point does.
    """
    loss = landscape.surface()
    middle = loss[1:-1, 1:-1]
    opposite_neighbours = (
        (loss[:-2, 1:-1], loss[2:, 1:-1]),
        (loss[1:-1, :-2], loss[1:-1, 2:]),
        (loss[:-2, :-2], loss[2:, 2:]),
        (loss[:-2, 2:], loss[2:, :-2]),
    )
    bends = np.array([(one + other) / 2 - middle for one, other in opposite_neighbours])
    counts = np.isfinite(bends).all(axis=0)
    if not counts.any():
        raise GpuqError("the landscape has no point whose neighbours' losses are all known and finite")
    bent_down: NDArray[np.bool_] = np.any(bends < -_ROUNDING * np.abs(middle), axis=0)
    return float(bent_down[counts].mean())
