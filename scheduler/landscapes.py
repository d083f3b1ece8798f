"""`gpuq plot landscape`: the loss around networks, from a job's run directory or computed now."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict

from jobs.diagnostics.landscape import Landscape, LandscapeSettings, shape
from scheduler.home import Home
from scheduler.subjects import Choice, in_one_line, load, weights_of

if TYPE_CHECKING:
    from jobs.diagnostics.subject import Subject


class Wanted(Struct, frozen=True, kw_only=True):
    """What a person asks of a landscape; None: as the job has it, else the default."""

    grid: int | None = None
    span: float | None = None
    images: int | None = None
    seed: int | None = None

    def settings(self) -> LandscapeSettings:
        given = {name: value for name, value in asdict(self).items() if value is not None and name != "images"}
        return LandscapeSettings(**given)

    def accepts(self, landscape: Landscape) -> bool:
        """Whether one that has been made is what is asked for."""
        return all(value in (None, getattr(landscape, name)) for name, value in asdict(self).items())


NOTE = "Below 2×: points with less than twice the network's own loss; Not convex: points where the surface bends down"


def show_landscapes(landscapes: Iterable[tuple[str, Landscape]]) -> None:
    """A row a landscape: the network's own mean loss, what is found around it, and how fast."""
    from rich.table import Table
    from rich.text import Text

    from scheduler.render import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Landscape", no_wrap=True)
    for heading in ("Loss", "Median", "Highest", "Below 2×", "Not convex", "Points", "Images", "Evaluations/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for title, landscape in landscapes:
        table.add_row(Text(title), *_cells(landscape))
    console().print(table, Text(NOTE, style="dim"), sep="\n")


def _cells(landscape: Landscape) -> list[str]:
    found = shape(landscape)
    return [
        "" if landscape.loss is None else f"{landscape.loss:.4f}",
        f"{found.median:.4g}",
        f"{found.highest:.4g}",
        "" if found.near is None else f"{found.near:.0%}",
        "" if found.roughness is None else f"{found.roughness:.0%}",
        f"{landscape.grid}×{landscape.grid}",
        f"{landscape.images:,}",
        f"{landscape.evaluations_per_s:,.1f}",
    ]


def find_or_make(home: Home, choice: Choice, wanted: Wanted, device: str, beside: Path) -> Landscape:
    """A job's landscape as its run directory has it, or made now and kept there.

    That of a job file is kept `beside`, and so is one wanted otherwise than a job has it: its own may have taken hours.
    Raises GpuqError.
    """
    from jobs.diagnostics.survey import known

    path = beside if choice.files is None else choice.files.landscape
    if choice.files is not None:
        weights = weights_of(choice.files, choice.title)  # without any there is no landscape
        found = known(path)
        if found is not None and found.complete and is_newer(path, weights):
            if wanted.accepts(found):
                return found
            path = beside
    (subject,) = load(home, [choice], device)
    return _make(subject, wanted, path)


def is_newer(path: Path, than: Path) -> bool:
    """Whether a file was written after another: a job that trains on has other weights."""
    return path.stat().st_mtime_ns >= than.stat().st_mtime_ns


def _make(subject: "Subject", wanted: Wanted, path: Path) -> Landscape:
    """Explore with a bar that shows how far it is; Ctrl-C keeps the rows that are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jobs.diagnostics.survey import evaluation_batch_size, survey
    from scheduler.render import console

    settings = wanted.settings()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True)) as bar, in_one_line(subject.title):
        rows = bar.add_task(f"{subject.title}: rows of {settings.grid} evaluations", total=settings.grid)
        landscape = survey(
            path,
            subject.network,
            subject.data.test,
            settings,
            images=wanted.images,
            batch_size=evaluation_batch_size(subject.spec.train.batch_size, subject.data.test.images.device),
            precision="fp32",
            on_row=lambda explored: bar.update(rows, completed=len(explored.losses)),
        )
        bar.update(rows, completed=settings.grid)  # also where every row was there already
    return landscape
