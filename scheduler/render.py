"""Tables and texts for people, from the records of `scheduler.status`."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from jobs.errors import printable
from jobs.units import format_bytes, format_duration
from scheduler.states import LIVE, State
from scheduler.status import DeviceReport, JobReport, QueueReport, StatusReport
from scheduler.wishes import PAUSED

_STYLES = {
    "queued": "dim",
    PAUSED: "yellow",
    "starting": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "cancelled": "dim",
}
_PLAIN_WIDTH = 160  # when the output is not a terminal


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read our output has enough: the rest goes nowhere, and the command, like `gpuq run`, to its end."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def console(*, stderr: bool = False) -> Console:
    """Where tables go; wide when nobody's terminal limits it. Names and reasons are shown as they are written."""
    made = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _PLAIN_WIDTH
    return made


def status(report: StatusReport) -> RenderableType:
    """The device, the dispatcher, whether the queue is paused, and a row a job."""
    lines = [device_line(report.device), dispatcher_line(report)]
    if report.disk.error is not None:
        lines.append(Text(f"disk: {report.disk.error}; jobs wait until there is", style="red"))
    if report.queue.paused:
        lines.append(queue_line(report.queue))
    return Group(*lines, JobTable(report.jobs))


def device_line(device: DeviceReport) -> Text:
    if device.error is not None:
        return Text(f"device: {device.error}; nothing is started until it can be read", style="red")
    free = max(0, device.total_bytes - device.used_by_gpuq_bytes - device.used_by_others_bytes)
    line = Text(
        f"{device.name}: {format_bytes(device.used_by_gpuq_bytes)} used by gpuq "
        f"({format_bytes(device.reserved_bytes)} reserved), {format_bytes(device.used_by_others_bytes)} by others, "
        f"{format_bytes(free)} free, {format_bytes(device.total_bytes)} in all "
        f"({format_bytes(device.headroom_bytes)} kept free)"
    )
    return line if device.warning is None else line.append(f"\n{device.warning}", style="yellow")


def dispatcher_line(report: StatusReport) -> Text:
    if report.dispatcher.running:
        return Text(f"dispatcher: running (pid {report.dispatcher.pid})")
    waiting = any(_has_work(job, report.queue) for job in report.jobs)
    return Text("dispatcher: not running" + ("; `gpuq start` starts it" if waiting else ""))


def _has_work(job: JobReport, queue: QueueReport) -> bool:
    """Whether a dispatcher would have something to do for a job."""
    return job.state in LIVE or (job.state == State.QUEUED and not job.paused and not queue.paused)


def queue_line(queue: QueueReport) -> Text:
    """Of a queue that is paused."""
    why = "" if queue.reason is None else f": {queue.reason}"
    return Text(f"queue: paused{why}; `gpuq resume --all` goes on", style="yellow")


class JobTable:
    """A row a job. A narrow terminal gets fewer columns, and the reasons below the table."""

    WIDE, MEDIUM = 140, 110

    def __init__(self, jobs: Sequence[JobReport]) -> None:
        self.jobs = jobs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.jobs:
            yield Text("no jobs; `gpuq submit FILE.toml` queues some")
            return
        wide, medium = options.max_width >= self.WIDE, options.max_width >= self.MEDIUM
        columns = [column for column in _COLUMNS if medium or column.heading in _NARROW]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            # A name may be cut short, an id or a figure must not be.
            least = None if column.heading == "Name" else max(len(str(column.cell(job))) for job in self.jobs)
            table.add_column(column.heading, no_wrap=True, justify=column.justify, min_width=least)
        if wide:
            table.add_column("Reason", overflow="fold", ratio=1)
        for job in self.jobs:
            table.add_row(*(column.cell(job) for column in columns), *([job.reason or ""] if wide else []))
        yield table
        if not wide:
            yield from (Text(f"{job.id}: {job.reason}", style="dim") for job in self.jobs if job.reason)


def network_name(name: str) -> str:
    """A user's file without its folders."""
    return printable(name.rpartition("/")[2])


def state_text(job: JobReport) -> Text:
    word = state_word(job)
    return Text(word, style=_STYLES.get(word, "red"))


def state_word(job: JobReport) -> str:
    """Its outcome or state, for a person."""
    return job.outcome or (PAUSED if job.paused and job.state == State.QUEUED else job.state)


def progress(job: JobReport) -> str:
    """`12/200 ep`, or `6400/64000 it` where training is counted in iterations."""
    return f"{job.step}/{job.steps} it" if job.epochs is None else f"{job.epoch}/{job.epochs} ep"


def memory(job: JobReport) -> str:
    """`1.2 GiB → 1.1 GiB`: estimated, then measured."""
    estimate = "?" if job.estimate_bytes is None else format_bytes(job.estimate_bytes)
    return estimate if job.peak_bytes is None else f"{estimate} → {format_bytes(job.peak_bytes)}"


@dataclass(frozen=True)
class _Column:
    heading: str
    justify: Literal["left", "right"]
    cell: Callable[[JobReport], str | Text]


_COLUMNS = (
    _Column("Id", "right", lambda job: str(job.id)),
    _Column("Name", "left", lambda job: job.name),
    _Column("Network", "left", lambda job: network_name(job.network)),
    _Column("State", "left", state_text),
    _Column("Progress", "right", progress),
    _Column("Best val", "right", lambda job: _percent(job.best_validation_accuracy)),
    _Column("Test", "right", lambda job: _percent(job.test_accuracy)),
    _Column("Memory", "right", memory),
    _Column("Elapsed", "right", lambda job: "" if job.elapsed_s is None else format_duration(job.elapsed_s)),
    _Column("ETA", "right", lambda job: "" if job.eta_s is None else format_duration(job.eta_s)),
)
_NARROW = ("Id", "Name", "State", "Progress", "Best val", "Memory", "ETA")


def job_details(job: JobReport, log_tail: Sequence[str]) -> RenderableType:
    """Everything about one job, its attempts, and the end of its log when there is something to explain."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(job):
        facts.add_row(name, value)
    parts: list[RenderableType] = [facts]
    if job.attempts:
        parts += [Text(), _attempt_table(job)]
    if log_tail:
        parts += [Text(), Text("the log's last lines:", style="bold"), Text("\n".join(map(_for_terminal, log_tail)))]
    return Group(*parts)


def _facts(job: JobReport) -> list[tuple[str, str]]:
    facts = [
        ("job", f"{job.id} {job.name}"),
        ("network", printable(job.network)),
        ("state", state_word(job)),
        ("reason", job.reason),
        ("priority", str(job.priority)),
        ("parameters", None if job.parameters is None else f"{job.parameters:,}"),
        ("progress", progress(job)),
        ("best validation accuracy", _percent(job.best_validation_accuracy)),
        ("test accuracy", _percent(job.test_accuracy)),
        ("memory estimate", _estimate_text(job)),
        ("memory reserved", _reserved_text(job)),
        ("memory peak", None if job.peak_bytes is None else format_bytes(job.peak_bytes)),
        ("elapsed", None if job.elapsed_s is None else format_duration(job.elapsed_s)),
        ("left", None if job.eta_s is None else format_duration(job.eta_s)),
        ("submitted", job.submitted_at),
        ("finished", job.finished_at),
        ("run directory", job.run_dir),
    ]
    return [(name, value) for name, value in facts if value]


def _for_terminal(line: str) -> str:
    """A line of a job's log, which may hold anything."""
    return printable(line.expandtabs())


def _estimate_text(job: JobReport) -> str | None:
    return None if job.estimate_bytes is None else f"{format_bytes(job.estimate_bytes)} ({job.estimate_basis})"


def _reserved_text(job: JobReport) -> str | None:
    """What the live or last attempt holds, and with what it began if it has given back the rest."""
    if job.reservation_bytes is None:
        return None
    held = job.attempts[-1].reservation_bytes if job.attempts else job.reservation_bytes
    at_first = f" ({format_bytes(job.reservation_bytes)} at first)" if held < job.reservation_bytes else ""
    return format_bytes(held) + at_first


def _attempt_table(job: JobReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Attempt", "Pid", "Started", "Ended", "Outcome", "Exit code", "Reserved", "Peak"):
        table.add_column(heading, no_wrap=True)
    table.add_column("Reason", overflow="fold")
    for attempt in job.attempts:
        table.add_row(
            str(attempt.number),
            _or_blank(attempt.pid),
            attempt.started_at,
            attempt.ended_at or "",
            attempt.outcome or "live",
            _or_blank(attempt.exit_code),
            format_bytes(attempt.reservation_bytes),
            "" if attempt.peak_bytes is None else format_bytes(attempt.peak_bytes),
            attempt.reason or "",
        )
    return table


def _or_blank(value: int | None) -> str:
    return "" if value is None else str(value)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"
