"""`gpuq plot gradient-flow`: how much gradient reached each layer while a job trained."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jobs.errors import GpuqError
from jobs.run_dir import FlowLine
from scheduler.pictures.curves import Counted
from scheduler.pictures.figure import add_grid, new_figure

MAX_LINES = 50
MAX_LABELS = 40
_LABEL_LENGTH = 40  # a longer name is shown by its end
_GAPS = "no point where the gradient is zero or not finite"


def gradient_flow_figure(title: str, lines: Sequence[FlowLine], *, by: Counted = "epoch") -> Figure:
    """Mean absolute gradient of each weight, input to output, on a log scale; a curve a line, early to late.

    Of more than MAX_LINES lines so many are drawn, evenly spread, the first and the last among them.
    Raises GpuqError when nothing was recorded.
    """
    if not lines or not lines[0].mean_absolute:
        raise GpuqError(f"{title}: no gradient flow was recorded; `[diagnostics] gradient_flow = true` records it")
    names = list(lines[0].mean_absolute)
    figure = new_figure(4.5 + 0.17 * min(len(names), MAX_LABELS), 5.5)
    axes = figure.subplots()
    axes.set_title(title, parse_math=False)
    drawn = evenly(lines)
    times = [line.epoch if by == "epoch" else line.step for line in drawn]
    scale = ScalarMappable(Normalize(min(times[0], times[-1] - 1), times[-1]), _early_to_late())
    rows = [_on_log_scale(line, names) for line in drawn]
    for row, rgba in zip(rows, scale.to_rgba(np.array(times)), strict=True):
        axes.plot(range(1, len(names) + 1), row, color=rgba, linewidth=0.8, marker="o", markersize=2)
    _lay_out(axes, names, with_gaps=any(math.isnan(value) for row in rows for value in row))
    figure.colorbar(scale, ax=axes, label=by, ticks=MaxNLocator(nbins=8, integer=True), format="{x:,.0f}")
    return figure


def evenly(lines: Sequence[FlowLine]) -> list[FlowLine]:
    """At most MAX_LINES of the lines, evenly spread, the first and the last among them."""
    drawn = min(len(lines), MAX_LINES)
    return [lines[round(i * (len(lines) - 1) / max(1, drawn - 1))] for i in range(drawn)]


def _on_log_scale(line: FlowLine, names: Sequence[str]) -> list[float]:
    """NaN, which is not drawn, for what has no logarithm."""
    return [line.mean_absolute[name] or math.nan for name in names]


def _early_to_late() -> Colormap:
    """Viridis without its last tenth, a yellow that white paper swallows."""
    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))


def _lay_out(axes: Axes, names: Sequence[str], *, with_gaps: bool) -> None:
    add_grid(axes)
    axes.set_yscale("log")
    axes.set_ylabel("mean absolute gradient (log scale)")
    axes.set_xlabel("weight, input to output" + (f"\n({_GAPS})" if with_gaps else ""))
    axes.set_xlim(0.5, len(names) + 0.5)
    step = math.ceil(len(names) / MAX_LABELS)
    labels = [name.removesuffix(".weight")[-_LABEL_LENGTH:] for name in names[::step]]
    axes.set_xticks(range(1, len(names) + 1, step), labels, rotation=90, fontsize=8, parse_math=False)
