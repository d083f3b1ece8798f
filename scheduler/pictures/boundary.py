"""Decision boundaries: what networks for points in the plane decide around their data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scheduler.pictures.figure import colour, legend_below, marker, new_figure, set_title

if TYPE_CHECKING:
    from jobs.diagnostics.boundary import Boundary, Floats

_MOST_COLUMNS = 4
_PANEL_IN = 3.0
_LEVELS = np.linspace(0, 1, 21)
_PALE = 0.5  # how far the colour under a class's points is on its way to white
_BORDER_COLOUR, _BORDER_WIDTH = "black", 1.3


def boundary_figure(boundaries: Sequence[tuple[str, Boundary]]) -> Figure:
    """A panel for each titled boundary: class probabilities, the line where the decision changes, and the data.

    Of two classes, the probability of the second is drawn; of more, a mixture of the classes' colours.
    """
    rows = math.ceil(len(boundaries) / _MOST_COLUMNS)
    columns = math.ceil(len(boundaries) / rows)
    figure = new_figure(_PANEL_IN * columns + 1, _PANEL_IN * rows + 0.6)
    panels = [figure.add_subplot(rows, columns, 1 + place) for place in range(len(boundaries))]
    for axes, (title, boundary) in zip(panels, boundaries, strict=True):
        _draw(axes, title, boundary)
    if all(boundary.classes == 2 for _, boundary in boundaries):
        shades = ScalarMappable(Normalize(0, 1), _two_class_colours())
        ticks = [0, 0.25, 0.5, 0.75, 1]
        figure.colorbar(shades, ax=panels, label="probability of class 1", ticks=ticks, shrink=0.8)
    classes = max(boundary.classes for _, boundary in boundaries)
    points = [(f"class {label}", _dots(label)) for label in range(classes)]
    border = Line2D([], [], color=_BORDER_COLOUR, linewidth=_BORDER_WIDTH)
    legend_below(figure, [*points, ("where the decision changes", border)])
    return figure


def _draw(axes: Axes, title: str, boundary: Boundary) -> None:
    if boundary.classes == 2:
        second = boundary.probabilities[..., 1]
        filled = axes.contourf(boundary.x, boundary.y, second, levels=_LEVELS, cmap=_two_class_colours())
        filled.set_rasterized(True)  # as shapes of an .svg the shades would have seams between them
    else:
        axes.pcolormesh(boundary.x, boundary.y, _mixed_colours(boundary.probabilities), rasterized=True)
    for label in range(1, boundary.classes):  # a border of the first class is another's, too
        _draw_border(axes, boundary, label)
    for label in range(boundary.classes):
        axes.add_line(_dots(label, boundary.points[boundary.labels == label]))
    set_title(axes, title, _PANEL_IN - 0.4)
    axes.set_aspect("equal")
    axes.set_xlim(boundary.x[0], boundary.x[-1])
    axes.set_ylim(boundary.y[0], boundary.y[-1])
    axes.set_xlabel("x")
    axes.set_ylabel("y")


def _draw_border(axes: Axes, boundary: Boundary, label: int) -> None:
    """The line within which a class is the most probable; there is none if it is so everywhere or nowhere."""
    others = np.delete(boundary.probabilities, label, axis=-1).max(axis=-1)
    lead = boundary.probabilities[..., label] - others
    if lead.min() < 0 < lead.max():
        axes.contour(boundary.x, boundary.y, lead, levels=[0], colors=_BORDER_COLOUR, linewidths=_BORDER_WIDTH)


def _dots(label: int, points: Floats | None = None) -> Line2D:
    """A class's points `(N, 2)`; none for the legend."""
    x, y = ([], []) if points is None else points.T
    look = Line2D(x, y, linestyle="none", marker=marker(label), color=colour(label), markersize=4)
    look.set_markeredgecolor("white")
    look.set_markeredgewidth(0.4)
    return look


def _two_class_colours() -> LinearSegmentedColormap:
    first, second = (tuple(_pale(label)) for label in range(2))
    return LinearSegmentedColormap.from_list("two classes", [first, (1.0, 1.0, 1.0), second])


def _mixed_colours(probabilities: Floats) -> Floats:
    """Colours `(grid, grid, 3)`: of each class as much as it is probable."""
    colours = np.array([_pale(label) for label in range(probabilities.shape[-1])])
    mixed: Floats = probabilities @ colours
    return mixed.clip(0, 1)


def _pale(label: int) -> Floats:
    """A class's colour beneath its points: red, green and blue, each from 0 to 1."""
    return _PALE + (1 - _PALE) * np.array(to_rgb(colour(label)), dtype=np.float32)
