"""What all pictures share: size, colours, legend, file. No pyplot: no display, no state outside the figure."""

import errno
import io
import math
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.errors import InputError

# Okabe and Ito 2008, "Color Universal Design"; without its yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FORMATS = (".png", ".svg")
_DOTS_PER_INCH = 150
_LEGEND_ROW_IN = 0.22
_CHARACTER_IN = 0.085  # of a legend's text, on average, at matplotlib's 10 points
_TITLE_CHARACTER_IN = 0.105  # likewise, at 12 points
_HANDLE_IN = 0.75  # a legend's line and the space to the next column


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that lays its axes out so that no labels overlap."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def add_grid(axes: Axes) -> None:
    """Faint lines behind the data."""
    axes.grid(visible=True, color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)


def colour(index: int) -> str:
    """The colour of the i-th thing in a picture, told apart by colour-blind people, too; the eighth is the first's."""
    return _COLOURS[index % len(_COLOURS)]


def line_style(index: int) -> str:
    """Solid for the first seven things in a picture; changes where `colour` begins anew."""
    return _LINE_STYLES[index // len(_COLOURS) % len(_LINE_STYLES)]


def marker(index: int) -> str:
    """The marker of the i-th thing in a picture; together with `colour` the first 56 differ."""
    return _MARKERS[index % len(_MARKERS)]


def set_title(axes: Axes, title: str, width_in: float) -> None:
    """A title as it is written, in as many lines as it takes to stay within `width_in`."""
    lines = textwrap.wrap(title, max(1, int(width_in / _TITLE_CHARACTER_IN)))
    axes.set_title("\n".join(lines), parse_math=False)


def legend_below(figure: Figure, entries: Sequence[tuple[str, Artist]]) -> None:
    """Name things below the axes, where nothing is covered. The figure grows, so that the axes keep their height.

    Labels are shown as they are: neither `$` nor a leading `_` has a meaning.
    """
    if not entries:
        return
    width_in = _HANDLE_IN + _CHARACTER_IN * max(len(label) for label, _ in entries)
    columns = min(len(entries), max(1, int(figure.get_figwidth() / width_in)))
    labels, artists = zip(*entries, strict=True)
    legend = figure.legend(artists, [""] * len(labels), loc="outside lower center", ncols=columns, frameon=False)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)
        text.set_parse_math(False)
    figure.set_figheight(figure.get_figheight() + math.ceil(len(entries) / columns) * _LEGEND_ROW_IN)


def check_path(path: Path) -> None:
    """Refuse, before anything is computed, a file that `save` could not write. Raises InputError."""
    if path.suffix.lower() not in _FORMATS:
        raise InputError([f"{path}: a picture's name ends in {' or '.join(_FORMATS)}"])
    if not path.parent.is_dir():
        raise InputError([f"{path}: there is no folder {path.parent}"])
    if path.is_dir():
        raise InputError([f"{path}: {os.strerror(errno.EISDIR)}"])
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError([f"{path}: {os.strerror(errno.EACCES)}"])


def save(figure: Figure, path: Path) -> None:
    """Write a .png or .svg. A figure made anew from the same numbers gives the same bytes. Raises InputError."""
    check_path(path)
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gpuq"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # a name in another script: boxes will do
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(picture, format=path.suffix[1:].lower(), dpi=_DOTS_PER_INCH, metadata=metadata)
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise InputError([f"{path}: {error.strerror}"]) from error
