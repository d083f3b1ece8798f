"""`gpuq estimate --check`: what was estimated of a job's memory, and what it really used."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from jobs.errors import GpuqError
from jobs.estimator import CPU_TRAINING_BYTES, LOADING_BYTES
from jobs.run_dir import Launch, Peak, read_record, read_whole
from jobs.units import format_bytes
from scheduler.estimate import Basis
from scheduler.home import Home
from scheduler.records import Attempt, Job
from scheduler.states import Outcome
from scheduler.store import Store


class Part(Struct, frozen=True, kw_only=True):
    """Some of the memory; None where it was not estimated, or cannot be told apart in what was used."""

    name: str
    estimate_bytes: int | None
    used_bytes: int | None


class Check(Struct, frozen=True, kw_only=True):
    """An attempt's memory. The parts of the estimate are those of its trace, even if a measurement was used instead."""

    id: int
    name: str
    attempt: int
    outcome: str | None  # None while it runs
    device: str
    basis: str
    estimate_bytes: int | None  # None: it was to show its peak, and nothing was estimated
    reservation_bytes: int  # that it was placed with
    left_bytes: int  # of the reservation, if it gave back the rest
    used_bytes: int  # at least, of one that ran out of memory
    error: float | None  # of the estimate, as a share of what was used
    parts: list[Part]


def check_job(home: Home, job_id: int) -> Check:
    """Compare the last attempt that tells. Raises UnknownJobError, and GpuqError for a job that has not run yet."""
    store = Store(home.store)
    job = store.job(job_id)
    attempt = telling(store.attempts(job_id))
    if attempt is None:
        raise GpuqError(f"job {job_id} {job.name} has not run yet: there is nothing to compare its estimate with")
    files = home.run_dir(job_id).attempt(attempt.number)
    return compared(job, attempt, read_record(files.peak, Peak), read_whole(files.launch, Launch))


def telling(attempts: Sequence[Attempt]) -> Attempt | None:
    """The last attempt that went through all that takes memory; if none did, the last of which a peak is known."""
    known = [attempt for attempt in attempts if attempt.peak_bytes is not None]
    return next((attempt for attempt in reversed(known) if attempt.shows_peak), known[-1] if known else None)


def compared(job: Job, attempt: Attempt, peak: Peak | None, launch: Launch | None = None) -> Check:
    """What was estimated of an attempt beside what it used; `peak` is its worker's own report, if it left one."""
    assert attempt.peak_bytes is not None
    components = {} if job.estimate is None else job.estimate.components
    estimated = None if attempt.basis is Basis.PROBED else attempt.predicted_bytes
    parts = cpu_parts if attempt.device_kind == "cpu" else cuda_parts
    return Check(
        id=job.id,
        name=job.name,
        attempt=attempt.number,
        outcome=attempt.outcome,
        device=attempt.device_name,
        basis=attempt.basis,
        estimate_bytes=estimated,
        reservation_bytes=attempt.reservation_bytes if launch is None else launch.reservation_bytes,
        left_bytes=attempt.reservation_bytes,
        used_bytes=attempt.peak_bytes,
        error=None if estimated is None else estimated / attempt.peak_bytes - 1,
        parts=[] if peak is None else parts(components, peak),
    )


def cpu_parts(components: Mapping[str, int], peak: Peak) -> list[Part]:
    """Resident memory by when it came: with the imports, with data and network, while training."""
    imports = data = training = None
    if components:
        imports = components["process"] - CPU_TRAINING_BYTES
        data = _sum(components, ("data", "parameters")) + LOADING_BYTES
        training = sum(components.values()) - imports - data
    return [
        Part(name="imports", estimate_bytes=imports, used_bytes=peak.imported_bytes),
        Part(name="data and network", estimate_bytes=data, used_bytes=_minus(peak.loaded_bytes, peak.imported_bytes)),
        Part(name="training", estimate_bytes=training, used_bytes=_minus(peak.peak_bytes, peak.loaded_bytes)),
    ]


def cuda_parts(components: Mapping[str, int], peak: Peak) -> list[Part]:
    """The context, if NVML told the worker its own; and the caching allocator's peaks, live and reserved."""
    context = tensors = slack = None
    if components:
        context, slack = components["context"], components["allocator slack"]
        tensors = sum(components.values()) - context - slack
    unused = _minus(peak.reserved_bytes, peak.allocated_bytes)
    return [
        Part(name="context", estimate_bytes=context, used_bytes=peak.context_bytes),
        Part(name="tensors and workspaces", estimate_bytes=tensors, used_bytes=peak.allocated_bytes),
        Part(name="allocator slack", estimate_bytes=slack, used_bytes=unused),
    ]


def _sum(components: Mapping[str, int], names: Iterable[str]) -> int:
    return sum(components[name] for name in names)


def _minus(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else max(0, whole - part)


def show(check: Check) -> None:
    """Print it for a person."""
    from rich.table import Table

    from scheduler.render import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Part")
    for heading in ("Estimated", "Used", "Error"):
        table.add_column(heading, justify="right", no_wrap=True)
    whole = Part(name="all", estimate_bytes=check.estimate_bytes, used_bytes=check.used_bytes)
    for part in [*check.parts, whole]:
        table.add_row(part.name, *_cells(part), style="bold" if part is whole else "")
    out = console()
    out.print(f"job {check.id} {check.name}, attempt {check.attempt} on {check.device}: {check.outcome or 'running'}")
    out.print(table)
    out.print(conclusion(check))


def _cells(part: Part) -> tuple[str, str, str]:
    estimated, used = part.estimate_bytes, part.used_bytes
    error = "" if estimated is None or not used else f"{100 * (estimated / used - 1):+.1f} %"
    return _size(estimated), _size(used), error


def _size(count: int | None) -> str:
    return "?" if count is None else format_bytes(count)


def conclusion(check: Check) -> str:
    """How the reservation did."""
    reservation = f"the estimate was {check.basis}, the reservation {format_bytes(check.reservation_bytes)}"
    if check.left_bytes < check.reservation_bytes:
        reservation += f" ({format_bytes(check.left_bytes)} in the end)"
    if check.outcome == Outcome.OUT_OF_MEMORY:
        return f"{reservation}: not enough, it used at least {format_bytes(check.used_bytes)}"
    if check.used_bytes > check.reservation_bytes:
        return f"{reservation}: {format_bytes(check.used_bytes - check.reservation_bytes)} too little"
    so_far = "" if check.outcome else " so far"
    return f"{reservation}: {format_bytes(check.reservation_bytes - check.used_bytes)} of it unused{so_far}"
