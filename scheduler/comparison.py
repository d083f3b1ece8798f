"""`gpuq compare`: jobs side by side, as the studies print them."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from jobs.run_dir import Metrics, Result, read_metrics, read_record
from jobs.units import format_bytes, format_duration
from scheduler.home import Home
from scheduler.records import Job
from scheduler.render import console, network_name
from scheduler.status import elapsed_s
from scheduler.store import Store

At = Literal["best", "last"]
Form = Literal["markdown", "csv"]

NOTE = "% is accuracy; Test is of the weights that did best on validation"


class Comparison(Struct, frozen=True, kw_only=True):
    """A job's figures; None where it has none yet. Accuracies are fractions, losses mean cross entropies."""

    id: int
    name: str
    network: str
    state: str
    outcome: str | None
    parameters: int | None
    epoch: int | None  # with `step`, where the training and validation figures are from
    step: int | None
    train_accuracy: float | None
    train_loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    test_accuracy: float | None  # of the weights that did best on validation
    test_loss: float | None
    elapsed_s: float | None
    peak_bytes: int | None


_OF_LINE = ("epoch", "step", "train_accuracy", "train_loss", "validation_accuracy", "validation_loss")
_OF_RESULT = ("test_accuracy", "test_loss")


def compare(home: Home, ids: Iterable[int], at: At = "best") -> list[Comparison]:
    """The given jobs' figures, from the store and their run directories. Raises UnknownJobError."""
    store = Store(home.store)
    now = datetime.now(UTC)
    compared = []
    for job in store.jobs(ids):
        files, attempts = home.run_dir(job.id), store.attempts(job.id)
        compared.append(
            comparison(
                job,
                read_metrics(files.metrics),
                read_record(files.result, Result),
                elapsed_s=elapsed_s(attempts, now),
                peak_bytes=max((attempt.peak_bytes or 0 for attempt in attempts), default=0) or None,
                at=at,
            )
        )
    return compared


def comparison(
    job: Job,
    lines: Sequence[Metrics],
    result: Result | None,
    *,
    elapsed_s: float | None,
    peak_bytes: int | None,
    at: At,
) -> Comparison:
    """A job's figures at the first line of the best validation accuracy, whose weights are kept, or at the last."""
    return Comparison(
        id=job.id,
        name=job.name,
        network=job.spec.model.name,
        state=job.state,
        outcome=job.outcome,
        parameters=job.parameters,
        **_figures(chosen(lines, at), _OF_LINE),
        **_figures(result, _OF_RESULT),
        elapsed_s=elapsed_s,
        peak_bytes=peak_bytes,
    )


def chosen(lines: Sequence[Metrics], at: At) -> Metrics | None:
    """The first line of the best validation accuracy, or the last line; None without any."""
    if not lines:
        return None
    return lines[-1] if at == "last" else max(lines, key=lambda line: line.validation_accuracy)


def _figures(record: Metrics | Result | None, names: Iterable[str]) -> dict[str, Any]:
    return {name: None if record is None else getattr(record, name) for name in names}


def show(rows: Sequence[Comparison], form: Form | None = None) -> None:
    """Print for a person, or as text to copy."""
    if form is None:
        console().print(ComparisonTable(rows))
    else:
        print(as_markdown(rows) if form == "markdown" else as_csv(rows), end="")


def as_csv(rows: Iterable[Comparison]) -> str:
    """The records as they are: fractions, bytes, seconds; unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, Comparison.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(row) for row in rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Comparison]) -> str:
    """A table as GitHub reads it, the best accuracies bold."""
    lines = [
        [column.heading for column in _COLUMNS],
        [":---" if column.justify == "left" else "---:" for column in _COLUMNS],
        *([_in_markdown(cell) for cell in cells] for cells in _cells(rows, _COLUMNS)),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class ComparisonTable:
    """A row a job, the best accuracies bold. A narrow terminal gets fewer columns and shorter names."""

    def __init__(self, rows: Sequence[Comparison]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = _fitting(_COLUMNS, self.rows, options.max_width)
        spare = options.max_width - _least_width(columns, self.rows)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            width = column.least_width(self.rows) + (spare if column.heading == "Name" else 0)
            table.add_column(column.heading, no_wrap=True, justify=column.justify, max_width=width)
        for cells in _cells(self.rows, columns):
            table.add_row(*(Text(cell.text, style="bold" if cell.is_best else "") for cell in cells))
        yield table
        yield Text(NOTE, style="dim")


@dataclass(frozen=True)
class _Cell:
    text: str
    is_best: bool


@dataclass(frozen=True)
class _Column:
    heading: str
    value: Callable[[Comparison], Any]
    form: Callable[[Any], str] = str
    justify: Literal["left", "right"] = "right"

    def text(self, row: Comparison) -> str:
        value = self.value(row)
        return "" if value is None else self.form(value)

    def cells(self, rows: Sequence[Comparison]) -> list[_Cell]:
        """Of accuracies the best is told apart, or all that look like it; one alone is not."""
        texts = [self.text(row) for row in rows]
        ranked = [float(text) for text in texts if text] if self.form is _percent else []
        return [_Cell(text, len(ranked) > 1 and text != "" and float(text) == max(ranked)) for text in texts]

    def least_width(self, rows: Sequence[Comparison]) -> int:
        """In characters: a name may be cut short, a figure must not be."""
        whole = max(map(len, (self.heading, *map(self.text, rows))))
        return min(whole, _SHORT_NAME) if self.heading == "Name" else whole


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


_COLUMNS = (
    _Column("Id", lambda row: row.id),
    _Column("Name", lambda row: row.name, justify="left"),
    _Column("Network", lambda row: network_name(row.network), justify="left"),
    _Column("State", lambda row: row.outcome or row.state, justify="left"),
    _Column("Parameters", lambda row: row.parameters, "{:,}".format),
    _Column("Epoch", lambda row: row.epoch),
    _Column("Step", lambda row: row.step),
    _Column("Train loss", lambda row: row.train_loss, "{:.4f}".format),
    _Column("Train %", lambda row: row.train_accuracy, _percent),
    _Column("Val loss", lambda row: row.validation_loss, "{:.4f}".format),
    _Column("Val %", lambda row: row.validation_accuracy, _percent),
    _Column("Test loss", lambda row: row.test_loss, "{:.4f}".format),
    _Column("Test %", lambda row: row.test_accuracy, _percent),
    _Column("Elapsed", lambda row: row.elapsed_s, format_duration),
    _Column("Peak", lambda row: row.peak_bytes, format_bytes),
)
# What a narrow terminal does without, the first first.
_SPARED = ("Step", "Network", "Train loss", "Val loss", "Test loss", "State", "Epoch", "Peak", "Elapsed", "Parameters")
_SHORT_NAME = 16
_GAP = 2  # characters between columns


def _cells(rows: Sequence[Comparison], columns: Sequence[_Column]) -> list[tuple[_Cell, ...]]:
    """Row by row."""
    return list(zip(*(column.cells(rows) for column in columns), strict=True))


def _fitting(columns: Sequence[_Column], rows: Sequence[Comparison], width: int) -> Sequence[_Column]:
    for heading in _SPARED:
        if _least_width(columns, rows) <= width:
            break
        columns = [column for column in columns if column.heading != heading]
    return columns


def _least_width(columns: Sequence[_Column], rows: Sequence[Comparison]) -> int:
    return sum(column.least_width(rows) + _GAP for column in columns) - _GAP


def _in_markdown(cell: _Cell) -> str:
    text = cell.text.replace("|", r"\|")
    return f"**{text}**" if cell.is_best else text
