"""`gpuq estimate`: what jobs would need, and what would fit, without queueing them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jobs.job_file import read_job_files
from jobs.spec import JobSpec
from jobs.trace_messages import Reply
from scheduler import estimate as estimates
from scheduler.calibration import take_up
from scheduler.device import Device, Snapshot, choose_device
from scheduler.errors import DeviceUnreadableError
from scheduler.estimate import Basis, Estimate, History
from scheduler.home import Home
from scheduler.store import Store
from scheduler.tracing import Failed, Tracer

# A search takes some four traces, a second or less each. Beyond so many, estimates come without.
MAX_SEARCHES = 8


class Forecast(Struct, frozen=True, kw_only=True):
    """The estimate of one job of a file, or why there is none."""

    file: str
    name: str
    estimate_bytes: int | None = None
    basis: str | None = None
    margin: float | None = None
    reservation_bytes: int | None = None
    components: dict[str, int] = {}
    largest_batch_size: int | None = None  # with which it would fit the device alone; None: not known
    parameters: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Outlook:
    """The estimates of jobs, and the device they are for; None if it cannot be read."""

    forecasts: Sequence[Forecast]
    device: Snapshot | None


def forecast_files(home: Home, files: Iterable[Path], device: str, memory_bytes: int | None = None) -> Outlook:
    """Estimate every job of every file. Raises InputError."""
    chosen = choose_device(device, memory_bytes)
    jobs = read_job_files(files)
    snapshot = _look(chosen)
    if snapshot is not None:
        take_up(chosen, home)
    known = History() if snapshot is None else Store(home.store).history(snapshot.kind, snapshot.name)
    capacity_bytes = None if snapshot is None else snapshot.capacity_bytes
    tracer = Tracer(chosen, home.cache, home.estimator_log)
    try:
        undeclared = [spec for _, spec in jobs if spec.resources.memory is None]
        traced = trace_all(tracer, undeclared, chosen.kind, known, capacity_bytes)
    finally:
        tracer.close()
    forecasts = []
    for path, spec in jobs:
        signature = estimates.signature(spec, chosen.kind)
        forecasts.append(forecast(path, spec, signature, traced.get(signature), known, capacity_bytes))
    return Outlook(forecasts, snapshot)


def _look(device: Device) -> Snapshot | None:
    try:
        return device.snapshot({})
    except DeviceUnreadableError:
        return None


def trace_all(
    tracer: Tracer, specs: Iterable[JobSpec], kind: str, known: History, capacity_bytes: int | None
) -> dict[str, Reply | Failed]:
    """What is traced of jobs on a kind of device, by signature: jobs that need the same memory are traced once.

    The largest batch size is searched once for all that differ in the batch size alone.
    """
    alike: dict[str, JobSpec] = {}
    searched: dict[str, str] = {}  # family → the signature of its first job
    for spec in specs:
        signature = estimates.signature(spec, kind)
        alike.setdefault(signature, spec)
        searched.setdefault(family(spec, kind), signature)
    most_bytes = None
    if capacity_bytes is not None and len(searched) <= MAX_SEARCHES:
        most_bytes = estimates.most_bytes(capacity_bytes, known)
    for key, (signature, spec) in enumerate(alike.items()):
        is_searched = searched[family(spec, kind)] == signature
        tracer.ask(key, spec, prepare=False, most_bytes=most_bytes if is_searched else None, search=True)
    signatures, traced = list(alike), dict[str, Reply | Failed]()
    while tracer.pending:
        traced |= {signatures[key]: reply for key, reply in tracer.poll(timeout_s=1.0).items()}
    return {one: _of_family(traced[one], traced[searched[family(spec, kind)]]) for one, spec in alike.items()}


def family(spec: JobSpec, kind: str) -> str:
    """The same for jobs that need the same memory but for their batch size."""
    return estimates.signature(replace(spec, train=replace(spec.train, batch_size=1)), kind)


def _of_family(traced: Reply | Failed, searched: Reply | Failed) -> Reply | Failed:
    """A job's trace with the largest batch size of its family."""
    if isinstance(traced, Failed) or isinstance(searched, Failed):
        return traced
    return replace(traced, largest_batch_size=searched.largest_batch_size)


def forecast(
    path: Path,
    spec: JobSpec,
    signature: str,
    traced: Reply | Failed | None,
    known: History,
    capacity_bytes: int | None,
) -> Forecast:
    """The best estimate of a job there is. One whose memory is declared need not be traced."""
    reply = None if isinstance(traced, Failed) else traced
    modelled = None if reply is None else estimates.modelled(reply.components, reply.parameters)
    best = estimates.best(spec, signature, known, modelled, capacity_bytes)
    if best is None:
        assert isinstance(traced, Failed)
        return Forecast(file=str(path), name=spec.name, error=traced.reason)
    found = None if reply is None else reply.largest_batch_size
    return Forecast(
        file=str(path),
        name=spec.name,
        estimate_bytes=best.bytes,
        basis=best.basis,
        margin=best.margin,
        reservation_bytes=best.reservation_bytes,
        components=best.components,
        largest_batch_size=_in_accord(found, best, spec.train.batch_size, capacity_bytes),
        parameters=best.parameters,
    )


def _in_accord(found: int | None, best: Estimate, own_size: int, capacity_bytes: int | None) -> int | None:
    """The largest batch size that traces found, in accord with the best estimate of the job's own.

    A search ends within 1 % of the largest, and measurements may contradict traces. A person's own figure says nothing
    about other sizes.
    """
    if found is None or capacity_bytes is None or best.basis is Basis.DECLARED:
        return None
    if best.reservation_bytes <= capacity_bytes:
        return max(found, own_size)
    return found if found < own_size else None
