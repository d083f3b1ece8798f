"""`gpuq probe … --out`: what layers put out, and how much gradient reaches them."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jobs.diagnostics.activations import LayerActivations
from jobs.diagnostics.gradients import GradientProbe
from scheduler.pictures.figure import add_grid, colour, legend_below, line_style, marker, new_figure

MAX_LABELS = 60
_LABEL_LENGTH = 32  # a longer name is shown by its end
_MARKERS_A_LINE = 20
_ROWS_A_COLUMN = 3  # for three networks one column, for twelve two: the picture stays about square
_GROUPS = ("conv", "linear", "attention", "activation", "dead")


def activations_figure(probes: Sequence[tuple[str, Sequence[LayerActivations]]]) -> Figure:
    """Mean ± standard deviation and percent of zeros of every layer, in the order computed; a block a network.

    `probes` holds one at least. What is not finite is not drawn. Of many layers every second, third … is named, at most
    MAX_LABELS.
    """
    longest = max((len(layers) for _, layers in probes), default=0)
    columns = math.ceil(math.sqrt(len(probes) / _ROWS_A_COLUMN))
    rows = math.ceil(len(probes) / columns)
    figure = new_figure(columns * max(6.5, 1.5 + 0.17 * min(longest, MAX_LABELS)), rows * 4.8)
    blocks = figure.subfigures(rows, columns, squeeze=False).flat
    for block, (title, layers) in zip(blocks, probes, strict=False):  # the last blocks may stay empty
        block.suptitle(title, parse_math=False)
        _draw_layers(block, layers)
    present = {_group(layer) for layer in chain.from_iterable(layers for _, layers in probes)}
    legend_below(figure, [(group, _point(group)) for group in _GROUPS if group in present])
    return figure


def gradients_figure(probes: Sequence[tuple[str, GradientProbe]]) -> Figure:
    """The gradient norm of every weight tensor, and its ratio to the weight norm, on log scales; a line a network.

    Weights go from input to output; those of a network alone are named, of many every second, third …, at most
    MAX_LABELS. What is zero or not finite has no place on a log scale: it leaves a gap, and the axis says so.
    """
    weights = [[row for row in probe.parameters if row.is_weight] for _, probe in probes]
    longest = max(1, *map(len, weights))
    alone = len(probes) == 1
    figure = new_figure(max(7.5, 1.5 + 0.17 * min(longest, MAX_LABELS)) if alone else 7.5, 6.4)
    norms, ratios = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    entries: list[tuple[str, Artist]] = []
    for index, ((title, probe), rows) in enumerate(zip(probes, weights, strict=True)):
        line = _draw_line(norms, [_on_log_scale(row.gradient_norm) for row in rows], index)
        _draw_line(ratios, [_on_log_scale(row.ratio or 0.0) for row in rows], index)
        entries.append((f"{title} ({probe.verdict})", line))
    _lay_out(norms, "gradient norm (L2, log scale)")
    _lay_out(ratios, "gradient norm / weight norm\n(log scale)")
    gaps = any(math.isnan(_on_log_scale(row.gradient_norm)) for rows in weights for row in rows)
    note = "\n(no point where the gradient is zero or not finite)" if gaps else ""
    if alone:
        _name_places(ratios, "weight, input to output", [row.name.removesuffix(".weight") for row in weights[0]], note)
    else:
        ratios.xaxis.set_major_locator(MaxNLocator(integer=True))
        ratios.set_xlabel(f"weight, numbered from input to output{note}")
    ratios.set_xlim(0.5, longest + 0.5)
    legend_below(figure, entries)
    return figure


def _lay_out(axes: Axes, label: str) -> None:
    add_grid(axes)
    axes.set_yscale("log")
    if not all(map(math.isfinite, axes.dataLim.intervaly)):
        axes.set_ylim(0.1, 10)  # a logarithmic scale cannot choose its own where nothing is drawn
    axes.set_ylabel(label)


def _draw_line(axes: Axes, values: Sequence[float], index: int) -> Line2D:
    (line,) = axes.plot(
        range(1, len(values) + 1),
        values,
        color=colour(index),
        linestyle=line_style(index),
        marker=marker(index),
        markersize=5,
        markevery=max(1, len(values) // _MARKERS_A_LINE),
    )
    return line


def _draw_layers(block: SubFigure, layers: Sequence[LayerActivations]) -> None:
    outputs, zeros = block.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for group in _GROUPS:
        members = [(number, layer) for number, layer in enumerate(layers, start=1) if _group(layer) == group]
        numbers = [number for number, _ in members]
        means = _drawable(layer.mean for _, layer in members)
        stds = _drawable(layer.std for _, layer in members)
        point = _point(group)
        outputs.errorbar(
            numbers, means, stds, color=point.get_color(), fmt=point.get_marker(), markersize=4, elinewidth=1
        )
        zeros.bar(numbers, [100 * layer.zeros for _, layer in members], color=point.get_color())
    outputs.set_ylabel("output (mean ± std)")
    zeros.set_ylabel("zeros")
    zeros.set_ylim(0, 100)
    zeros.yaxis.set_major_formatter(PercentFormatter())
    add_grid(outputs)
    add_grid(zeros)
    _name_places(zeros, "layer, input to output", [layer.name for layer in layers])
    zeros.set_xlim(0, len(layers) + 1)


def _name_places(axes: Axes, what: str, names: Sequence[str], note: str = "") -> None:
    """Names at 1, 2, 3 … below the axes, as many as can be read."""
    step = max(1, math.ceil(len(names) / MAX_LABELS))
    labels = [name[-_LABEL_LENGTH:] for name in names[::step]]
    axes.set_xticks(range(1, len(names) + 1, step), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_xlabel(what + (f" (one in {step} is named)" if step > 1 else "") + note)


def _group(layer: LayerActivations) -> str:
    """What a layer is drawn as: all activations alike, and the dead apart."""
    if layer.dead:
        return "dead"
    return layer.kind if layer.kind in _GROUPS else "activation"


def _point(group: str) -> Line2D:
    index = _GROUPS.index(group)
    return Line2D([], [], color=colour(index), marker=marker(index), linestyle="none", markersize=5)


def _drawable(values: Iterable[float]) -> list[float]:
    """NaN, which is not drawn, for infinity, which has no place on an axis."""
    return [value if math.isfinite(value) else math.nan for value in values]


def _on_log_scale(value: float) -> float:
    """NaN, which is not drawn, for what has no logarithm."""
    return value if 0 < value < math.inf else math.nan
