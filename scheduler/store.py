"""The queue on disk: the only SQL. Every transition is a compare-and-swap with its event, in one transaction.

sqlite3 itself serves the commands that people type. sqlite-utils, which costs 0.4 s to import because it brings numpy,
does the dispatcher's bulk work.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobs.run_dir import Metrics, Progress, sync_folder
from jobs.spec import JobSpec, encode
from scheduler import margin
from scheduler.clock import utc_now
from scheduler.errors import StoreError, UnknownJobError
from scheduler.estimate import PRIOR_MARGINS, Estimate, History
from scheduler.process import Identity
from scheduler.records import Attempt, Job, Origin, Prediction
from scheduler.states import TRANSITIONS, Outcome, State, Wish

SCHEMA_VERSION = 2
_BUSY_TIMEOUT_S = 30.0


class Store:
    """One connection to the queue of a state directory."""

    def __init__(self, path: Path, now: Callable[[], str] = utc_now) -> None:
        """Open the store, making it when there is none. Raises StoreError when it cannot be used."""
        self.path = path
        self._now = now
        try:
            if not path.exists():
                _make(path)
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreError(f"{path}: cannot be used as the queue's store: {error}") from error

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA synchronous = FULL")  # an id that was printed survives a power cut
        self._db.execute("PRAGMA foreign_keys = ON")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: has schema version {version}, this gpuq knows {SCHEMA_VERSION}; "
                f"use the gpuq that wrote it, or another GPUQ_HOME"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """A write transaction that takes its lock at once: reading first and locking later fails under contention."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk, for one, has ended it already
                self._db.execute("ROLLBACK")
            raise

    # -- reading ------------------------------------------------------------------------------------------------

    def jobs(self, ids: Iterable[int] | None = None) -> list[Job]:
        """All jobs, or the given ones, by id. Raises UnknownJobError."""
        if ids is None:
            return [_job(row) for row in self._db.execute("SELECT * FROM jobs ORDER BY id")]
        return [self.job(job_id) for job_id in ids]

    def job(self, job_id: int) -> Job:
        """Raises UnknownJobError."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJobError(job_id)
        return _job(row)

    def queued(self) -> list[Job]:
        rows = self._db.execute("SELECT * FROM jobs WHERE state = ? ORDER BY id", (State.QUEUED,))
        return [_job(row) for row in rows]

    def has_unfinished(self) -> bool:
        row = self._db.execute("SELECT 1 FROM jobs WHERE state != ? LIMIT 1", (State.FINISHED,)).fetchone()
        return row is not None

    def attempts(self, job_id: int | None = None) -> list[Attempt]:
        """The attempts of a job, or of all, oldest first."""
        where, values = ("", ()) if job_id is None else ("WHERE job_id = ?", (job_id,))
        rows = self._db.execute(f"SELECT * FROM attempts {where} ORDER BY job_id, number", values)
        return [_attempt(row) for row in rows]

    def counted_attempts(self, job: Job) -> list[Attempt]:
        """The attempts of a job since a person last had it tried again, oldest first."""
        return [attempt for attempt in self.attempts(job.id) if attempt.number > job.forgiven_attempts]

    def live_attempts(self) -> list[Attempt]:
        rows = self._db.execute("SELECT * FROM attempts WHERE ended_at IS NULL ORDER BY job_id")
        return [_attempt(row) for row in rows]

    def history(self, device_kind: str, device_name: str) -> History:
        """What ended attempts on a device have taught about the memory that jobs need."""
        here = "WHERE device_kind = ? AND device_name = ?"
        device = (device_kind, device_name)
        needs = self._db.execute(f"SELECT signature, peak_bytes, exceeded_bytes FROM needs {here}", device).fetchall()
        latest = f"SELECT ratio FROM ratios {here} AND basis = ? ORDER BY ended_at DESC, ratio LIMIT ?"
        ratios = {basis: self._db.execute(latest, (*device, basis, margin.WINDOW)) for basis in PRIOR_MARGINS}
        return History(
            peak_bytes={row["signature"]: row["peak_bytes"] for row in needs if row["peak_bytes"] is not None},
            exceeded_bytes={
                row["signature"]: row["exceeded_bytes"] for row in needs if row["exceeded_bytes"] is not None
            },
            ratios={basis: [row["ratio"] for row in rows] for basis, rows in ratios.items()},
        )

    def dispatcher(self) -> Identity | None:
        """The registered dispatcher; it may have died since."""
        row = self._db.execute("SELECT pid, start_ticks, boot_id FROM dispatcher").fetchone()
        return None if row is None else Identity(*row)

    # -- a person's wishes --------------------------------------------------------------------------------------

    def submit(self, specs: Sequence[JobSpec], origin: Origin) -> tuple[list[int], Identity | None]:
        """Queue jobs, all or none; their ids, and the dispatcher that was registered at that instant."""
        with self._transaction():
            ids = [self._insert(spec, origin) for spec in specs]
            return ids, self.dispatcher()

    def _insert(self, spec: JobSpec, origin: Origin) -> int:
        job_id = self._insert_row(
            "jobs",
            name=spec.name,
            spec=encode(spec).decode(),
            priority=spec.priority,
            state=State.QUEUED,
            submitted_at=self._now(),
            submitted_from=origin.directory,
            git_commit=origin.git_commit,
            git_dirty=origin.git_dirty,
        )
        self._event(job_id, "submitted")
        return job_id

    def _insert_row(self, table: str, **values: Any) -> int:
        """Returns its rowid: a job's id."""
        marks = ", ".join("?" * len(values))
        statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
        rowid = self._db.execute(statement, tuple(values.values())).lastrowid
        assert rowid is not None
        return rowid

    def cancel(self, job_id: int) -> Job:
        """Finish a queued job as cancelled, wish it of a live one, leave a finished one; the job as it is then."""
        with self._transaction():
            job = self.job(job_id)
            if job.state is State.QUEUED:
                self._finish(job, Outcome.CANCELLED, "cancelled before it started")
            elif job.is_live:
                self._db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (Wish.CANCEL, job_id))
                self._event(job_id, "cancel wished")
            return self.job(job_id)

    def retry(self, job_id: int) -> bool:
        """Queue a finished job again, to go on from its checkpoint; False if it is not finished or succeeded.

        What went wrong before no longer counts, and its memory is estimated anew: a user's file may have changed.
        """
        with self._transaction():
            job = self.job(job_id)
            if job.state is not State.FINISHED or job.outcome is Outcome.SUCCEEDED:
                return False
            return self._move(
                job_id,
                State.FINISHED,
                State.QUEUED,
                "retried",
                outcome=None,
                reason=None,
                finished_at=None,
                estimate=None,
                forgiven_attempts=len(self.attempts(job_id)),
            )

    # -- the dispatcher's transitions ---------------------------------------------------------------------------

    def set_estimate(self, job_id: int, estimate: Estimate) -> None:
        self.set_estimates({job_id: estimate})

    def set_estimates(self, estimates: Mapping[int, Estimate]) -> None:
        """Replace the estimates of jobs, by id."""
        with self._transaction():
            self._db.executemany(
                "UPDATE jobs SET estimate = ?, parameters = coalesce(?, parameters) WHERE id = ?",
                ((msgspec.json.encode(one), one.parameters, job_id) for job_id, one in estimates.items()),
            )

    def set_reason(self, job_id: int, reason: str) -> None:
        """Say why a queued job waits."""
        self._db.execute(
            "UPDATE jobs SET reason = ? WHERE id = ? AND state = ? AND reason IS NOT ?",
            (reason, job_id, State.QUEUED, reason),
        )

    def place(self, job_id: int, reservation_bytes: int, prediction: Prediction) -> int | None:
        """Reserve memory for a queued job; the number of its new attempt, None if it is no longer queued."""
        with self._transaction():
            if not self._move(
                job_id,
                State.QUEUED,
                State.STARTING,
                "placed",
                detail=str(reservation_bytes),
                reservation_bytes=reservation_bytes,
                reason=None,
                eta_s=None,
            ):
                return None
            number = len(self.attempts(job_id)) + 1
            self._insert_row(
                "attempts",
                job_id=job_id,
                number=number,
                **msgspec.structs.asdict(prediction),
                reservation_bytes=reservation_bytes,
                started_at=self._now(),
            )
            return number

    def set_pid(self, job_id: int, number: int, pid: int) -> None:
        self._db.execute("UPDATE attempts SET pid = ? WHERE job_id = ? AND number = ?", (pid, job_id, number))

    def mark_running(self, job_id: int, number: int, progress: Progress) -> None:
        """The attempt's worker has begun to train."""
        parameters, steps = progress.parameters, progress.steps
        with self._transaction():
            if self._move(job_id, State.STARTING, State.RUNNING, "running", parameters=parameters, steps=steps):
                self._db.execute(
                    "UPDATE attempts SET start_step = ? WHERE job_id = ? AND number = ?",
                    (progress.resumed_from_step, job_id, number),
                )

    def record_metrics(self, job_id: int, number: int, lines: Sequence[Metrics], eta_s: float | None) -> None:
        """Take over the lines of `metrics.jsonl` that are new; a resumed job's replace those it repeats."""
        from sqlite_utils import Database

        last = lines[-1]
        rows = [{"job_id": job_id, **msgspec.structs.asdict(line)} for line in lines]
        with self._transaction():
            database = Database(self._db)
            database.table("metrics").insert_all(rows, pk=("job_id", "step"), replace=True)
            self._db.execute(
                "UPDATE jobs SET epoch = ?, step = ?, elapsed_s = ?, eta_s = ?, best_validation_accuracy = "
                "(SELECT max(validation_accuracy) FROM metrics WHERE job_id = ? AND step <= ?) WHERE id = ?",
                (last.epoch, last.step, last.elapsed_s, eta_s, job_id, last.step, job_id),
            )
            self._db.executemany(  # the lines up to its start are of earlier attempts
                "UPDATE attempts SET peak_bytes = max(coalesce(peak_bytes, 0), ?) "
                "WHERE job_id = ? AND number = ? AND coalesce(start_step, 0) < ?",
                [(line.peak_bytes, job_id, number, line.step) for line in lines],
            )

    def end_attempt(
        self,
        attempt: Attempt,
        outcome: Outcome,
        reason: str | None,
        *,
        requeue: bool,
        exit_code: int | None,
        peak_bytes: int | None,
        shows_peak: bool = False,
        test_accuracy: float | None = None,
    ) -> None:
        """Record how an attempt ended, and queue its job again or finish it with the same outcome.

        Whoever comes second finds the attempt ended and changes nothing. A job that somebody wished cancelled at the
        last moment is not queued again.
        """
        with self._transaction():
            ended = self._db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = ?, reason = ?, exit_code = ?, "
                "peak_bytes = nullif(max(coalesce(peak_bytes, 0), coalesce(?, 0)), 0), shows_peak = ? "
                "WHERE job_id = ? AND number = ? AND ended_at IS NULL",
                (self._now(), outcome, reason, exit_code, peak_bytes, shows_peak, attempt.job_id, attempt.number),
            )
            if ended.rowcount == 0:
                return
            job = self.job(attempt.job_id)
            if requeue and job.wish is Wish.CANCEL:
                self._finish(job, Outcome.CANCELLED, "cancelled while it ran")
            elif requeue:
                self._move(job.id, job.state, State.QUEUED, "requeued", detail=reason, reason=reason, eta_s=None)
            else:
                self._finish(job, outcome, reason, test_accuracy=test_accuracy)

    def finish_queued(self, job_id: int, outcome: Outcome, reason: str) -> None:
        """End a job that will not be placed."""
        with self._transaction():
            job = self.job(job_id)
            if job.state is State.QUEUED:
                self._finish(job, outcome, reason)

    def _finish(self, job: Job, outcome: Outcome, reason: str | None, **columns: Any) -> None:
        self._move(
            job.id,
            job.state,
            State.FINISHED,
            "finished",
            detail=f"{outcome}: {reason}" if reason else str(outcome),
            outcome=outcome,
            reason=reason,
            finished_at=self._now(),
            wish=None,
            eta_s=None,
            **columns,
        )

    def _move(
        self,
        job_id: int,
        source: State,
        target: State,
        event: str,
        *,
        detail: str | None = None,
        **columns: Any,
    ) -> bool:
        """The one place where a job's state changes: only from `source`, with its event."""
        assert (source, target) in TRANSITIONS, f"{source} to {target}"
        assignments = ", ".join(f"{column} = ?" for column in columns)
        moved = self._db.execute(
            f"UPDATE jobs SET state = ?{', ' if columns else ''}{assignments} WHERE id = ? AND state = ?",
            (target, *columns.values(), job_id, source),
        )
        if moved.rowcount:
            self._event(job_id, event, detail)
        return bool(moved.rowcount)

    def _event(self, job_id: int, kind: str, detail: str | None = None) -> None:
        self._db.execute(
            "INSERT INTO events (at, job_id, kind, detail) VALUES (?, ?, ?, ?)",
            (self._now(), job_id, kind, detail),
        )

    # -- who dispatches -----------------------------------------------------------------------------------------

    def register_dispatcher(self, identity: Identity) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO dispatcher VALUES (1, ?, ?, ?, ?)",
            (identity.pid, identity.start_ticks, identity.boot_id, self._now()),
        )

    def unregister_dispatcher(self, identity: Identity, *, only_if_idle: bool) -> bool:
        """Give up the post; with `only_if_idle`, not while there is anything to do. Whether it was given up."""
        with self._transaction():
            if only_if_idle and self.has_unfinished():
                return False
            self._db.execute("DELETE FROM dispatcher WHERE pid = ?", (identity.pid,))
            return True


def _make(path: Path) -> None:
    """Make an empty store beside its place and link it there: it is complete or not there at all.

    Of several processes that do this at once one is first, and the others take its store. In place they would meet
    over the change to WAL, which fails at once with "database is locked", whatever the timeout.
    """
    import tempfile

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-store-") as folder:
        made = Path(folder) / path.name
        made.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(made)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(Path(__file__).with_name("schema.sql").read_text())
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    sync_folder(path.parent)


def _attempt(row: sqlite3.Row) -> Attempt:
    return msgspec.convert(dict(row), Attempt, strict=False)


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for column in ("spec", "estimate"):
        if values[column] is not None:
            values[column] = msgspec.json.decode(values[column])
    return msgspec.convert(values, Job, strict=False)
