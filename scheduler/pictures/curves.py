"""`gpuq plot curves`: loss and accuracy while jobs train."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jobs.errors import GpuqError, InputError
from jobs.run_dir import Metrics
from jobs.spec import TrainSpec
from scheduler.pictures.figure import add_grid, colour, legend_below, marker, new_figure

Counted = Literal["epoch", "iteration"]

_GREY = "0.35"
_RAW: dict[str, Any] = {"alpha": 0.3, "linewidth": 0.8, "marker": None}  # behind a smoothed curve
_FEW = 5  # jobs that colours alone tell apart at a glance
_MARKERS_A_CURVE = 8
_WIDE = 30  # times the median


@dataclass(frozen=True)
class Curves:
    """A job, by the name it has in the picture, and its lines of metrics in order."""

    title: str
    lines: Sequence[Metrics]


@dataclass(frozen=True)
class _Panel:
    label: str
    train: Callable[[Metrics], float]
    validation: Callable[[Metrics], float]


_PANELS = (
    _Panel("cross entropy (nats)", lambda line: line.train_loss, lambda line: line.validation_loss),
    _Panel("accuracy (%)", lambda line: 100 * line.train_accuracy, lambda line: 100 * line.validation_accuracy),
)


def counted_by(trainings: Iterable[TrainSpec]) -> Counted:
    """What the x axis counts: epochs if every job does and has a line for each, else iterations for all."""
    by_epoch = all(one.iterations is None and one.evaluate_every is None for one in trainings)
    return "epoch" if by_epoch else "iteration"


def smoothed(values: Iterable[float], ema: float) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma and Ba 2015, section 3; TensorBoard's smoothing).

    s_t = ema · s_(t−1) + (1 − ema) · x_t with s_0 = 0, and what is returned is s_t / (1 − ema^t), t from 1.
    """
    sums = list(accumulate(values, lambda total, value: ema * total + (1 - ema) * value, initial=0.0))[1:]
    return [total / (1 - ema**t) for t, total in enumerate(sums, start=1)]


def curves_figure(runs: Sequence[Curves], *, by: Counted = "epoch", ema: float = 0.0) -> Figure:
    """A panel for the loss and one for the accuracy, a colour a job; training dashed, validation solid.

    `ema` smooths over lines of metrics, with the curves as they are faint behind; 0 does not smooth.
    Raises GpuqError for a job without a line, InputError for an `ema` outside [0, 1).
    """
    if not 0 <= ema < 1:
        raise InputError([f"ema: expected a number from 0 to below 1, got {ema:g}"])
    for run in runs:
        if not run.lines:
            raise GpuqError(f"{run.title}: has no metrics yet, so there is no curve to draw")
    figure = new_figure(11, 4.2)
    marked = len(runs) > _FEW or any(len(run.lines) == 1 for run in runs)
    for panel, axes in zip(_PANELS, figure.subplots(1, 2), strict=True):
        for index, run in enumerate(runs):
            x = [line.epoch if by == "epoch" else line.step for line in run.lines]
            style = {"color": colour(index), "markevery": max(1, len(x) // _MARKERS_A_CURVE)}
            symbol = marker(index) if marked else None
            _draw(axes, x, [panel.train(line) for line in run.lines], ema, style | _training(symbol))
            _draw(axes, x, [panel.validation(line) for line in run.lines], ema, style | _validation(symbol))
        _lay_out(axes, by, panel.label)
    _widen_loss(figure.axes[0], runs)
    legend_below(figure, _legend(runs, ema, marked=marked))
    return figure


def _widen_loss(axes: Axes, runs: Sequence[Curves]) -> None:
    """A logarithmic scale where a loss on its own one would flatten the others: a network that nearly diverged."""
    losses = [value for run in runs for line in run.lines for value in (line.train_loss, line.validation_loss)]
    if min(losses) > 0 and max(losses) > _WIDE * median(losses):
        axes.set_yscale("log")
        axes.set_ylabel("cross entropy (nats, log scale)")


def _training(symbol: str | None) -> dict[str, Any]:
    return {"linestyle": "dashed", "marker": symbol, "markersize": 5, "markerfacecolor": "white"}


def _validation(symbol: str | None) -> dict[str, Any]:
    return {"linestyle": "solid", "marker": symbol, "markersize": 5}


def _draw(axes: Axes, x: Sequence[int], y: Sequence[float], ema: float, style: dict[str, Any]) -> None:
    if ema:
        axes.plot(x, y, **(style | _RAW))
    axes.plot(x, smoothed(y, ema), **style)


def _lay_out(axes: Axes, x_label: str, y_label: str) -> None:
    add_grid(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _legend(runs: Sequence[Curves], ema: float, *, marked: bool) -> list[tuple[str, Line2D]]:
    """The jobs, then what the kinds of line mean."""
    entries = [
        (run.title, Line2D([], [], color=colour(index), **_validation(marker(index) if marked else None)))
        for index, run in enumerate(runs)
    ]
    symbol = "o" if marked else None
    entries.append(("training", Line2D([], [], color=_GREY, **_training(symbol))))
    entries.append(("validation", Line2D([], [], color=_GREY, **_validation(symbol))))
    if ema:
        entries.append((f"before smoothing (EMA {ema:g})", Line2D([], [], color=_GREY, **_RAW)))
    return entries
