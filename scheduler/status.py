"""What `gpuq status` tells, as records: `--json` is these and nothing else, so their names are an interface."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from scheduler.device import Device, Snapshot, unreadable
from scheduler.device_view import DeviceView, read_view, reserved_bytes
from scheduler.disk import DiskReport
from scheduler.disk import look as look_at_disk
from scheduler.errors import DeviceUnreadableError
from scheduler.estimate import Basis
from scheduler.home import Home
from scheduler.records import Attempt, Job, QueuePause
from scheduler.states import State
from scheduler.store import Store

NO_DISPATCHER = "no dispatcher is running"
QUEUE_PAUSED = "the queue is paused"


class DispatcherReport(Struct, frozen=True, kw_only=True):
    running: bool
    pid: int | None


class QueueReport(Struct, frozen=True, kw_only=True):
    paused: bool  # no job starts, whenever it is submitted
    reason: str | None  # null if a person wanted it


class DeviceReport(Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    total_bytes: int
    used_by_gpuq_bytes: int
    used_by_others_bytes: int
    headroom_bytes: int
    budget_bytes: int
    reserved_bytes: int
    error: str | None = None  # why it could not be read
    warning: str | None = None  # why estimates for it are less sure


class AttemptReport(Struct, frozen=True, kw_only=True):
    number: int
    pid: int | None
    started_at: str
    ended_at: str | None
    outcome: str | None
    reason: str | None
    exit_code: int | None
    reservation_bytes: int
    peak_bytes: int | None


class JobReport(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    network: str
    priority: int
    state: str
    outcome: str | None
    reason: str | None
    paused: bool  # held; or, of a live job, to be held after its checkpoint
    epoch: int
    epochs: int | None  # null where training is counted in iterations
    step: int
    steps: int | None  # of the whole training: known in advance where it is counted in iterations
    best_validation_accuracy: float | None
    test_accuracy: float | None
    parameters: int | None
    estimate_bytes: int | None
    estimate_basis: str | None
    reservation_bytes: int | None
    peak_bytes: int | None
    elapsed_s: float | None
    eta_s: float | None
    submitted_at: str
    finished_at: str | None
    run_dir: str
    attempts: list[AttemptReport]


class StatusReport(Struct, frozen=True, kw_only=True):
    dispatcher: DispatcherReport
    queue: QueueReport
    disk: DiskReport
    device: DeviceReport
    jobs: list[JobReport]


def report(home: Home, store: Store, device: Device, now: datetime, jobs: Iterable[Job]) -> StatusReport:
    """The state of everything, and of the given jobs."""
    by_job: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in store.attempts():
        by_job[attempt.job_id].append(attempt)
    identity = store.dispatcher()
    alive = identity is not None and identity.is_alive()
    pause = store.queue_pause()
    waits_for = _waits_for(pause, dispatcher_alive=alive)
    live = [attempt for attempts in by_job.values() for attempt in attempts if attempt.ended_at is None]
    return StatusReport(
        dispatcher=DispatcherReport(running=alive, pid=identity.pid if alive and identity else None),
        queue=QueueReport(paused=pause is not None, reason=None if pause is None else pause.reason),
        disk=look_at_disk(home),
        device=_device_report(home, device, live, dispatcher_alive=alive),
        jobs=[job_report(job, by_job[job.id], home, now, waits_for) for job in jobs],
    )


def _waits_for(pause: QueuePause | None, *, dispatcher_alive: bool) -> str | None:
    """What keeps all queued jobs waiting, whatever a dispatcher last said of each."""
    if pause is not None:
        return QUEUE_PAUSED
    return None if dispatcher_alive else NO_DISPATCHER


def job_report(
    job: Job, attempts: Sequence[Attempt], home: Home, now: datetime, waits_for: str | None = None
) -> JobReport:
    """One job with its attempts, oldest first. `waits_for` is why no queued job starts now."""
    estimate = job.estimate
    waits = job.state is State.QUEUED and not job.is_paused
    return JobReport(
        id=job.id,
        name=job.name,
        network=job.spec.model.name,
        priority=job.priority,
        state=job.state,
        outcome=job.outcome,
        reason=waits_for or job.reason if waits else _notice(job, attempts, home) or job.reason,
        paused=job.is_paused,
        epoch=job.epoch,
        epochs=job.spec.train.epochs,
        step=job.step,
        steps=job.steps or job.spec.train.iterations,
        best_validation_accuracy=job.best_validation_accuracy,
        test_accuracy=job.test_accuracy,
        parameters=job.parameters,
        estimate_bytes=None if estimate is None or estimate.basis is Basis.PROBED else estimate.bytes,
        estimate_basis=None if estimate is None else estimate.basis,
        reservation_bytes=job.reservation_bytes,
        peak_bytes=max((attempt.peak_bytes or 0 for attempt in attempts), default=0) or None,
        elapsed_s=elapsed_s(attempts, now),
        eta_s=job.eta_s if job.state is State.RUNNING else None,
        submitted_at=job.submitted_at,
        finished_at=job.finished_at,
        run_dir=str(home.run_dir(job.id).path),
        attempts=[_attempt_report(attempt) for attempt in attempts],
    )


def _notice(job: Job, attempts: Sequence[Attempt], home: Home) -> str | None:
    """What a live attempt waits for, if for anything."""
    return home.run_dir(job.id).attempt(attempts[-1].number).notice.read() if job.is_live and attempts else None


def elapsed_s(attempts: Iterable[Attempt], now: datetime) -> float | None:
    """Seconds that a job's attempts have taken, None before the first."""
    spans = [
        (datetime.fromisoformat(attempt.ended_at) if attempt.ended_at else now)
        - datetime.fromisoformat(attempt.started_at)
        for attempt in attempts
    ]
    return max(0.0, sum(span.total_seconds() for span in spans)) if spans else None


def _attempt_report(attempt: Attempt) -> AttemptReport:
    return AttemptReport(
        number=attempt.number,
        pid=attempt.pid,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        reason=attempt.reason,
        exit_code=attempt.exit_code,
        reservation_bytes=attempt.reservation_bytes,
        peak_bytes=attempt.peak_bytes,
    )


def _device_report(home: Home, device: Device, live: Sequence[Attempt], *, dispatcher_alive: bool) -> DeviceReport:
    """The dispatcher's view of its device, or a look of our own when no dispatcher has one."""
    view = read_view(home.device_view) if dispatcher_alive else None
    if view is not None:
        return _described(view)
    try:
        snapshot = device.snapshot({one.pid: one.peak_bytes or 0 for one in live if one.pid is not None})
    except DeviceUnreadableError as error:
        return _described(DeviceView(snapshot=unreadable(device), reserved_bytes=0, error=str(error)))
    return _described(DeviceView(snapshot=snapshot, reserved_bytes=reserved_bytes(live)))


def _described(view: DeviceView) -> DeviceReport:
    snapshot: Snapshot = view.snapshot
    return DeviceReport(
        name=snapshot.name,
        kind=snapshot.kind,
        total_bytes=snapshot.total_bytes,
        used_by_gpuq_bytes=snapshot.used_by_gpuq_bytes,
        used_by_others_bytes=snapshot.used_by_others_bytes,
        headroom_bytes=snapshot.headroom_bytes,
        budget_bytes=snapshot.budget_bytes,
        reserved_bytes=view.reserved_bytes,
        error=view.error,
        warning=view.warning,
    )
