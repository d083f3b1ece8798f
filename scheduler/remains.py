"""What is left of a job without its row in the store: its run directory, and what a damaged store still tells."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from jobs.errors import GpuqError
from jobs.run_dir import (
    AttemptFiles,
    ExitRecord,
    Failure,
    Launch,
    Metrics,
    Peak,
    ProcessRecord,
    Progress,
    Result,
    RunDir,
    read_metrics,
    read_whole,
)
from jobs.spec import JobSpec, encode
from scheduler.clock import as_utc, utc_now
from scheduler.copies import Submitted
from scheduler.errors import DamagedStoreError
from scheduler.estimate import Basis
from scheduler.records import Attempt, Job, Remains
from scheduler.states import Outcome, State, Wish
from scheduler.transitions import as_job
from scheduler.verdict import Verdict, judge
from scheduler.wishes import PAUSED

MAX_ID = 1_000_000  # a damaged store may tell of any number of jobs


def remembered(path: Path) -> dict[int, Job]:
    """The jobs that a damaged store still tells, by id. They are asked for one by one: a damaged page hides its own."""
    found: dict[int, Job] = {}
    with (
        contextlib.suppress(sqlite3.Error, UnicodeDecodeError),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
    ):
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that is too short
        last_id = database.execute("SELECT CAST(max(seq) AS INTEGER) FROM sqlite_sequence").fetchone()[0] or 0
        for job_id in range(1, min(last_id, MAX_ID) + 1):
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError, DamagedStoreError):
                if row := database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone():
                    found[job_id] = as_job(row)
    return found


def from_store(job: Job) -> Remains:
    """A job without a run directory: as it was, queued if it had not ended."""
    return Remains(row=_request(job.id, job.spec) | _asked(job) | _standing(job))


def from_files(job_id: int, files: RunDir, known: Job | None) -> Remains:
    """A job as its run directory tells it; `known` is what the damaged store says of it.

    Its attempts are judged anew, as a dispatcher does; without any, it is queued. Wishes are in the store alone, and so
    a job that was cancelled before it ended, or paused, may be queued. Raises GpuqError if its spec cannot be read.
    """
    spec = _read_spec(files)
    result, metrics = read_whole(files.result, Result), read_metrics(files.metrics)
    attempts, verdict = _judged(job_id, files, None if known is None else known.wish, has_result=result is not None)
    row = _request(job_id, spec) | _submitted(files) | _progress(files, attempts, metrics, result)
    if known is not None:
        row |= _asked(known)
    if verdict is not None and not verdict.requeue and not _is_retried(known, attempts):
        row |= _end(verdict.outcome, verdict.reason, attempts[-1].ended_at)
    elif known is not None:
        row |= _standing(known)
    return Remains(row=row, attempts=attempts, metrics=metrics)


def _request(job_id: int, spec: JobSpec) -> dict[str, Any]:
    row = {"id": job_id, "name": spec.name, "spec": encode(spec).decode(), "priority": spec.priority}
    return row | {"state": State.QUEUED, "submitted_from": ""}


def _submitted(files: RunDir) -> dict[str, Any]:
    submitted = read_whole(files.submission, Submitted)
    if submitted is None:  # of a gpuq that left no such record: at the latest then
        return {"submitted_at": as_utc(files.spec.stat().st_mtime)}
    row: dict[str, Any] = {"submitted_at": submitted.at, "submitted_from": submitted.directory}
    return row | {"git_commit": submitted.git_commit, "git_dirty": submitted.git_dirty}


def _asked(job: Job) -> dict[str, Any]:
    """Of what was asked for, that which is in the store alone."""
    row = {"priority": job.priority, "submitted_at": job.submitted_at, "submitted_from": job.submitted_from}
    return row | {"git_commit": job.git_commit, "git_dirty": job.git_dirty, "forgiven_attempts": job.forgiven_attempts}


def _is_retried(known: Job | None, attempts: Sequence[Attempt]) -> bool:
    """Whether a person had it queued again after the last attempt that there was."""
    return known is not None and known.state is State.QUEUED and known.forgiven_attempts >= len(attempts)


def _standing(job: Job) -> dict[str, Any]:
    """How a job ended, or that it is to wait."""
    if job.outcome is not None:
        return _end(job.outcome, job.reason, job.finished_at)
    return {"wish": job.wish, "reason": PAUSED} if job.wish is Wish.PAUSE else {}


def _end(outcome: Outcome, reason: str | None, finished_at: str | None) -> dict[str, Any]:
    return {"state": State.FINISHED, "outcome": outcome, "reason": reason, "finished_at": finished_at}


def _progress(
    files: RunDir, attempts: Sequence[Attempt], metrics: Sequence[Metrics], result: Result | None
) -> dict[str, Any]:
    """How far a job has come."""
    row: dict[str, Any] = {}
    if attempts:
        last = files.attempt(attempts[-1].number)
        launch, progress = read_whole(last.launch, Launch), read_whole(last.progress, Progress)
        row["reservation_bytes"] = 0 if launch is None else launch.reservation_bytes
        row["forgiven_attempts"] = 0 if launch is None else launch.first_counted - 1
        if progress is not None:
            row |= {"parameters": progress.parameters, "steps": progress.steps}
    if metrics:
        line = metrics[-1]
        row |= {"epoch": line.epoch, "step": line.step, "elapsed_s": line.elapsed_s}
        row["best_validation_accuracy"] = max(one.validation_accuracy for one in metrics)
    return row if result is None else row | {"test_accuracy": result.test_accuracy}


def _judged(job_id: int, files: RunDir, wish: Wish | None, *, has_result: bool) -> tuple[list[Attempt], Verdict | None]:
    """The attempts with how each ended, and what the last one means for the job; None if there was none."""
    attempts: list[Attempt] = []
    verdict = None
    last = max((int(path.name) for path in files.attempts.glob("*") if path.name.isdecimal()), default=0)
    for number in range(1, last + 1):
        of_attempt = files.attempt(number)
        launch, ended = read_whole(of_attempt.launch, Launch), _ending(of_attempt)
        attempt = _attempt(job_id, number, of_attempt, launch, ended)
        earlier = attempts[launch.first_counted - 1 :] if launch is not None else attempts
        failure, is_last = read_whole(of_attempt.failure, Failure), number == last
        verdict = judge(ended, failure, wish if is_last else None, attempt, earlier, has_result=has_result and is_last)
        attempts.append(replace(attempt, outcome=verdict.outcome, reason=verdict.reason))
    return attempts, verdict


def _attempt(job_id: int, number: int, files: AttemptFiles, launch: Launch | None, ended: ExitRecord) -> Attempt:
    """An attempt of which is not known what was predicted: it is no measurement."""
    progress, peak = read_whole(files.progress, Progress), read_whole(files.peak, Peak)
    processes = read_whole(files.process, ProcessRecord)
    reservation_bytes = 0 if launch is None else launch.reservation_bytes
    return Attempt(
        job_id=job_id,
        number=number,
        signature="",
        device_kind="",
        device_name="",
        predicted_bytes=0,
        basis=Basis.PROBED if launch is not None and launch.probe else Basis.MODELLED,
        reservation_bytes=reservation_bytes if progress is None else progress.left_of(reservation_bytes),
        started_at=ended.started_at,
        ended_at=ended.ended_at,
        outcome=None,
        reason=None,
        pid=None if processes is None else processes.worker_pid,
        exit_code=ended.exit_code if ended.signal is None else -ended.signal,
        peak_bytes=None if peak is None else peak.peak_bytes,
        shows_peak=False,
        start_step=None if progress is None else progress.resumed_from_step,
    )


def _ending(files: AttemptFiles) -> ExitRecord:
    """Of an attempt without a record, whose processes are known to be gone, as much as its folder tells."""
    if (record := read_whole(files.exit, ExitRecord)) is not None:
        return record
    changed = as_utc(files.folder.stat().st_mtime) if files.folder.exists() else utc_now()
    return ExitRecord(started_at=changed, ended_at=changed)


def _read_spec(files: RunDir) -> JobSpec:
    try:
        return files.read_spec()
    except (OSError, msgspec.MsgspecError) as error:
        raise GpuqError(f"{files.spec}: cannot be read: {error}") from error
