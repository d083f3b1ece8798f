"""Loss landscapes as contours and as surfaces, as Li et al. 2018 (arXiv:1712.09913) draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from jobs.errors import GpuqError
from scheduler.pictures.figure import legend_below, new_figure, set_title

if TYPE_CHECKING:
    from jobs.diagnostics.landscape import Landscape, Surface

_COLOUR_MAP = "viridis"
_SHADES = 40
_WIDE = 8.0  # from this ratio of highest to lowest loss on, colours and heights are logarithmic
_NO_LOSS = 1e-3  # on a logarithmic scale, losses below look alike
_MOST_DECADES = 4  # from the power of ten below the lowest loss; losses beyond look alike
_MOST_FACES = 60  # of a surface, a side
_LABEL_MARGIN = 0.06  # of the span, along the edges: a contour's label there would be cut off


@dataclass(frozen=True)
class LossScale:
    """How losses become colours and heights."""

    low: float
    top: float
    logarithmic: bool
    cut: bool  # losses above `top`, or not finite, are drawn as `top`

    @property
    def label(self) -> str:
        return f"mean loss (cut off at {self.top:g})" if self.cut else "mean loss"

    @property
    def norm(self) -> Normalize:
        return (LogNorm if self.logarithmic else Normalize)(self.low, self.top)

    @property
    def shades(self) -> list[float]:
        """The edges of the filled contours."""
        spaced = np.geomspace if self.logarithmic else np.linspace
        return [float(edge) for edge in spaced(self.low, self.top, _SHADES + 1)]

    @property
    def lines(self) -> list[float]:
        """Round losses between `low` and `top`: contour lines and ticks."""
        if self.logarithmic:
            return _round_numbers(self.low, self.top)
        return [line for line in MaxNLocator(10).tick_values(self.low, self.top) if self.low < line < self.top]

    def height(self, loss: Any) -> Any:
        """Where on the third axis a loss, or an array of losses, lies."""
        return np.log10(loss) if self.logarithmic else loss

    def drawn(self, surface: Surface) -> Surface:
        """The losses as far as they are told apart."""
        return np.nan_to_num(surface, nan=self.top).clip(self.low, self.top)


def scale_of(surfaces: Sequence[Surface]) -> LossScale:
    """One scale for all surfaces, each with a finite loss at least."""
    losses = np.concatenate([surface.ravel() for surface in surfaces])
    finite = losses[np.isfinite(losses)]
    low, high = float(finite.min()), float(finite.max())
    floor = max(low, _NO_LOSS)
    if high / floor >= _WIDE:
        top = min(high, 10.0 ** (math.floor(math.log10(floor)) + _MOST_DECADES))
        return LossScale(floor, top, logarithmic=True, cut=top < high or finite.size < losses.size)
    flat = 1e-3 * max(abs(low), 1.0)  # a network that has learned nothing has the same loss everywhere
    return LossScale(low, max(high, low + flat), logarithmic=False, cut=finite.size < losses.size)


def landscape_figure(title: str, landscape: Landscape) -> Figure:
    """Contours, and a surface beside them. Raises GpuqError as `landscapes_figure` does."""
    return landscapes_figure([(title, landscape)])


def landscapes_figure(landscapes: Sequence[tuple[str, Landscape]]) -> Figure:
    """A row for each landscape, all with the same colours and heights for the same losses.

    Raises GpuqError for a landscape that is not complete or has no finite loss.
    """
    surfaces = [_checked_surface(title, landscape) for title, landscape in landscapes]
    scale = scale_of(surfaces)
    rows = len(landscapes)
    figure = new_figure(11, 4.8 * rows)
    flat = [figure.add_subplot(rows, 2, 2 * row + 1) for row in range(rows)]
    solid = [figure.add_subplot(rows, 2, 2 * row + 2, projection="3d") for row in range(rows)]
    for row, ((title, landscape), surface) in enumerate(zip(landscapes, surfaces, strict=True)):
        _draw_contours(flat[row], title, landscape, surface, scale)
        _draw_surface(solid[row], landscape, surface, scale)
    colours = ScalarMappable(scale.norm, _COLOUR_MAP)
    bar = figure.colorbar(colours, ax=[*flat, *solid], label=scale.label, pad=0.06, aspect=25)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(scale.lines, labels=[f"{line:g}" for line in scale.lines])
    legend_below(figure, [("the network itself", _centre())])
    return figure


def _checked_surface(title: str, landscape: Landscape) -> Surface:
    if not landscape.complete:
        raise GpuqError(f"{title}: only {len(landscape.losses)} of the landscape's {landscape.grid} rows are done")
    surface = landscape.surface()
    if not np.isfinite(surface).any():
        raise GpuqError(f"{title}: the landscape has no finite loss to draw")
    return surface


def _draw_contours(axes: Axes, title: str, landscape: Landscape, surface: Surface, scale: LossScale) -> None:
    at, drawn = landscape.coordinates, scale.drawn(surface).T  # matplotlib's rows go upwards, along β
    filled = axes.contourf(at, at, drawn, levels=scale.shades, norm=scale.norm, cmap=_COLOUR_MAP)
    filled.set_rasterized(True)  # as shapes of an .svg the shades would have seams between them
    crossed = [line for line in scale.lines if drawn.min() < line < drawn.max()]
    if crossed:
        lines = axes.contour(at, at, drawn, levels=crossed, colors="white", linewidths=0.7)
        for label in axes.clabel(lines, fmt="%g", fontsize=8):
            label.set_path_effects([withStroke(linewidth=2, foreground="0.2")])
            label.set_visible(max(map(abs, label.get_position())) < (1 - _LABEL_MARGIN) * landscape.span)
    axes.add_line(_centre())
    set_title(axes, title, 4.5)
    axes.set_aspect("equal")
    axes.set_xlabel("α, along the first direction")
    axes.set_ylabel("β, along the second direction")


def _centre() -> Line2D:
    return Line2D([0], [0], linestyle="none", marker="X", markersize=9, color="white", markeredgecolor="black")


def _draw_surface(axes: Any, landscape: Landscape, surface: Surface, scale: LossScale) -> None:
    """`axes` are mpl_toolkits' Axes3D, which has no types."""
    alpha, beta = np.meshgrid(landscape.coordinates, landscape.coordinates, indexing="ij")
    heights = scale.height(scale.drawn(surface))
    low, top = scale.height(scale.low), scale.height(scale.top)
    faces = min(landscape.grid, _MOST_FACES)
    axes.plot_surface(
        alpha, beta, heights, rcount=faces, ccount=faces, cmap=_COLOUR_MAP, norm=Normalize(low, top), linewidth=0
    )
    axes.set_box_aspect(None, zoom=0.95)  # else the third axis's label is cut
    axes.set_zlim(low, top)
    axes.set_xticks([-landscape.span, 0, landscape.span])
    axes.set_yticks([-landscape.span, 0, landscape.span])
    axes.zaxis.set_major_locator(FixedLocator([scale.height(line) for line in scale.lines]))
    axes.zaxis.set_major_formatter(FuncFormatter(lambda height, _: f"{10**height if scale.logarithmic else height:g}"))
    axes.set_xlabel("α")
    axes.set_ylabel("β")
    axes.set_zlabel("mean loss")


def _round_numbers(low: float, top: float) -> list[float]:
    """Powers of ten and some of their multiples between two positive numbers; fewer, the further these are apart."""
    decades = math.log10(top / low)
    multiples = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1.5 else (1.0, 2.0, 5.0) if decades < 3 else (1.0, 3.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(top)) + 1)
    numbers = [multiple * 10.0**power for power in powers for multiple in multiples]
    return [number for number in numbers if low < number < top]
