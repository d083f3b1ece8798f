"""`gpuq plot accuracy`: what jobs reached, against a key of their files."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from msgspec import Struct

from jobs.errors import GpuqError
from scheduler.against import Place, as_text
from scheduler.pictures.figure import add_grid, colour, legend_below, marker, new_figure

_GREY = "0.35"
_MOST_CHARACTERS = 60  # of values that stand side by side


class Reached(Struct, frozen=True, kw_only=True):
    """A job's place and its accuracies, fractions."""

    place: Place
    train: float
    validation: float


def accuracy_figure(key: str, jobs: Sequence[Reached]) -> Figure:
    """Accuracy against the values of a key, evenly spaced: numbers by size, words as they come; training hollow.

    A point a job. A line joins the jobs of a series where values are numbers; of several jobs of one series and value,
    such as seeds, it goes through the mean. Raises GpuqError without any job.
    """
    if not jobs:
        raise GpuqError("no job has metrics yet, so there is no accuracy to draw")
    values = list(dict.fromkeys(job.place.value for job in jobs))
    joined = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if joined:
        values.sort(key=float)
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    names = list(dict.fromkeys(job.place.series for job in jobs))
    for index, name in enumerate(names):
        members = [job for job in jobs if job.place.series == name]
        at = [values.index(job.place.value) for job in members]
        _draw(axes, at, [100 * job.train for job in members], _training(index), joined=joined)
        _draw(axes, at, [100 * job.validation for job in members], _validation(index), joined=joined)
    add_grid(axes)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlabel(key, parse_math=False)
    texts = [as_text(value) for value in values]
    rotation = 0 if len(texts) * max(map(len, texts)) <= _MOST_CHARACTERS else 90
    axes.set_xticks(range(len(texts)), texts, rotation=rotation, parse_math=False)
    legend_below(figure, _legend(names, joined=joined))
    return figure


def _draw(axes: Axes, at: Sequence[int], accuracies: Sequence[float], style: dict[str, Any], *, joined: bool) -> None:
    if joined:
        across = sorted(set(at))
        means = [mean(y for x, y in zip(at, accuracies, strict=True) if x == place) for place in across]
        axes.plot(across, means, **(style | {"marker": None}))
    axes.plot(at, accuracies, **(style | {"linestyle": "none"}))


def _training(index: int) -> dict[str, Any]:
    return _validation(index) | {"linestyle": "dashed", "markerfacecolor": "white"}


def _validation(index: int) -> dict[str, Any]:
    return {"color": colour(index), "linestyle": "solid", "marker": marker(index), "markersize": 5}


def _legend(names: Sequence[str], *, joined: bool) -> list[tuple[str, Line2D]]:
    """The series, then what hollow and full points mean."""
    line = {} if joined else {"linestyle": "none"}
    entries = [(name, Line2D([], [], **(_validation(index) | line))) for index, name in enumerate(names) if name]
    entries.append(("training", Line2D([], [], **(_training(0) | line | {"color": _GREY}))))
    entries.append(("validation", Line2D([], [], **(_validation(0) | line | {"color": _GREY}))))
    return entries
