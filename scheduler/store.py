"""The queue on disk: with `transitions` and `wishes`, which it is made of, the only SQL of its tables.

sqlite3 itself serves the commands that people type. sqlite-utils, which costs 0.4 s to import because it brings numpy,
does the dispatcher's bulk work.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from jobs.run_dir import Metrics, Progress
from jobs.spec import JobSpec, encode
from scheduler import margin, migrations
from scheduler.clock import utc_now
from scheduler.errors import DamagedStoreError, StoreError, UnknownJobError, is_full, refusing
from scheduler.estimate import PRIOR_MARGINS, Estimate, History
from scheduler.home import Home
from scheduler.process import Identity
from scheduler.records import Attempt, Job, Origin, Prediction, Remains
from scheduler.schema import SCHEMA_VERSION, make_store, schema_version
from scheduler.states import FAILURES, Outcome, State, Wish
from scheduler.transitions import as_job
from scheduler.wishes import PAUSED, Wishes

_BUSY_TIMEOUT_S = 30.0


class Store(Wishes):
    """One connection to the queue of a state directory."""

    def __init__(self, path: Path, now: Callable[[], str] = utc_now, *, even_if_full: bool = False) -> None:
        """Open the store, making it when there is none. Raises StoreError when it cannot be used.

        `even_if_full` it can be read on a full disk though nobody else has it open; nobody else can open it then.
        """
        self.path = path
        self._now = now
        with refusing(path):
            has_log = path.with_name(f"{path.name}-wal").exists()  # asked first: a store is there before its log
            if not path.exists():
                if has_log:  # SQLite would put what it holds into the new store
                    raise DamagedStoreError(path, "it is gone, and its log is not")
                make_store(path, last_id=max(Home(path.parent).run_ids(), default=0))  # of a store that is gone
            self._db = _connected(path)
            try:
                schema_version(self._db)
            except sqlite3.OperationalError as error:
                self._db.close()
                if not (even_if_full and is_full(error)):
                    raise
                self._db = _connected(path, alone=True)
            self._prepare()

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA synchronous = FULL")  # an id that was printed survives a power cut
        if schema_version(self._db) in migrations.NEW_COLUMNS:
            with self._transaction():
                migrations.migrate(self._db, self.path, self._now())
        self._db.execute("SELECT sql FROM sqlite_master").fetchall()  # names that are no text any more
        self._db.execute("PRAGMA foreign_keys = ON")
        version = schema_version(self._db)
        if version == 0:  # of an empty file, too
            raise DamagedStoreError(self.path, "there is no queue in it")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: has schema version {version}, this gpuq knows {SCHEMA_VERSION}; "
                f"use the gpuq that wrote it, or another GPUQ_HOME"
            )

    def check(self, *, quick: bool = False) -> None:
        """Read all there is, once; a quick check does not compare indices with their tables. Raises DamagedStoreError.

        Quick, 10,000 jobs with 1,000,000 lines of metrics take under a second, else two.
        """
        with refusing(self.path):
            [found] = self._db.execute(f"PRAGMA {'quick' if quick else 'integrity'}_check(1)").fetchone()
            if found != "ok":
                raise DamagedStoreError(self.path, found.splitlines()[-1])
            self.jobs()
            self.attempts()

    # -- reading ------------------------------------------------------------------------------------------------

    def jobs(self, ids: Iterable[int] | None = None) -> list[Job]:
        """All jobs, or the given ones, by id. Raises UnknownJobError."""
        if ids is None:
            return [as_job(row) for row in self._db.execute("SELECT * FROM jobs ORDER BY id")]
        return [self.job(job_id) for job_id in ids]

    def startable(self) -> list[Job]:
        """The queued jobs that nobody has paused; none while the whole queue is paused."""
        return [as_job(row) for row in self._db.execute("SELECT * FROM startable ORDER BY id")]

    def has_unfinished(self) -> bool:
        row = self._db.execute("SELECT 1 FROM jobs WHERE state != ? LIMIT 1", (State.FINISHED,)).fetchone()
        return row is not None

    def has_work(self) -> bool:
        """Whether there is anything for a dispatcher to do: a job that lives or that may start."""
        live = "SELECT 1 FROM attempts WHERE ended_at IS NULL"
        row = self._db.execute(f"SELECT EXISTS ({live}) OR EXISTS (SELECT 1 FROM startable)").fetchone()
        return bool(row[0])

    def last_event(self) -> int:
        """The id of the latest event, 0 before the first."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

    def failed_since(self, event_id: int) -> int:
        """How many jobs have ended after an event because something went wrong with them."""
        row = self._db.execute(
            f"SELECT count(DISTINCT job_id) FROM events JOIN jobs ON jobs.id = job_id "
            f"WHERE events.id > ? AND kind = 'finished' AND outcome IN ({', '.join('?' * len(FAILURES))})",
            (event_id, *FAILURES),
        ).fetchone()
        return int(row[0])

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

    # -- submitting ---------------------------------------------------------------------------------------------

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
        self.set_reasons({job_id: reason})

    def set_reasons(self, reasons: Mapping[int, str]) -> None:
        """Say why queued jobs wait, by id; a paused one says so itself."""
        with self._transaction():
            self._db.executemany(
                "UPDATE jobs SET reason = ? WHERE id = ? AND state = ? AND wish IS NULL AND reason IS NOT ?",
                ((reason, job_id, State.QUEUED, reason) for job_id, reason in reasons.items()),
            )

    def place(self, job_id: int, reservation_bytes: int, prediction: Prediction) -> int | None:
        """Reserve memory for a queued job; the number of its new attempt, None if it may no longer start."""
        with self._transaction():
            if not self._is_startable(job_id) or not self._move(
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
            number = self._count_attempts(job_id) + 1
            self._insert_row(
                "attempts",
                job_id=job_id,
                number=number,
                **msgspec.structs.asdict(prediction),
                reservation_bytes=reservation_bytes,
                started_at=self._now(),
            )
            return number

    def _is_startable(self, job_id: int) -> bool:
        return self._db.execute("SELECT 1 FROM startable WHERE id = ?", (job_id,)).fetchone() is not None

    def set_pid(self, job_id: int, number: int, pid: int) -> None:
        self._db.execute("UPDATE attempts SET pid = ? WHERE job_id = ? AND number = ?", (pid, job_id, number))

    def mark_running(self, job_id: int, number: int, progress: Progress) -> None:
        """The attempt's worker has begun to train."""
        with self._transaction():
            parameters, steps = progress.parameters, progress.steps or self.job(job_id).steps
            if self._move(job_id, State.STARTING, State.RUNNING, "running", parameters=parameters, steps=steps):
                self._db.execute(
                    "UPDATE attempts SET start_step = ? WHERE job_id = ? AND number = ?",
                    (progress.resumed_from_step, job_id, number),
                )

    def lower_reservation(self, job_id: int, number: int, reservation_bytes: int) -> None:
        """A live attempt's worker has given back all but this. What it was placed with stays with its job."""
        with self._transaction():
            lowered = self._db.execute(
                "UPDATE attempts SET reservation_bytes = ? "
                "WHERE job_id = ? AND number = ? AND ended_at IS NULL AND reservation_bytes > ?",
                (reservation_bytes, job_id, number, reservation_bytes),
            )
            if lowered.rowcount:
                self._event(job_id, "gave back", str(reservation_bytes))

    def record_metrics(self, job_id: int, number: int, lines: Sequence[Metrics], eta_s: float | None) -> None:
        """Take over the lines of `metrics.jsonl` that are new; a resumed job's replace those it repeats."""
        last = lines[-1]
        with self._transaction():
            self._insert_metrics(job_id, lines)
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

    def _insert_metrics(self, job_id: int, lines: Sequence[Metrics]) -> None:
        from sqlite_utils import Database

        rows = [{"job_id": job_id, **msgspec.structs.asdict(line)} for line in lines]
        Database(self._db).table("metrics").insert_all(rows, pk=("job_id", "step"), replace=True)

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
        last moment is not queued again; one that is to be paused is queued, and held there.
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
                why = PAUSED if job.is_paused else reason
                self._move(job.id, job.state, State.QUEUED, "requeued", detail=reason, reason=why, eta_s=None)
            else:
                self._finish(job, outcome, reason, test_accuracy=test_accuracy)

    def finish_queued(self, job_id: int, outcome: Outcome, reason: str) -> None:
        """End a job that will not be placed; nothing if it is queued no more, or was removed meanwhile."""
        with self._transaction(), contextlib.suppress(UnknownJobError):
            job = self.job(job_id)
            if job.state is State.QUEUED:
                self._finish(job, outcome, reason)

    # -- upkeep -------------------------------------------------------------------------------------------------

    def restore(self, jobs: Iterable[Remains]) -> None:
        """Put in what is left of jobs whose store was lost."""
        with self._transaction():
            for job in jobs:
                self._insert_row("jobs", **job.row)
                self._event(job.id, "restored")
                for attempt in job.attempts:
                    self._insert_row("attempts", **msgspec.structs.asdict(attempt))
                if job.metrics:
                    self._insert_metrics(job.id, job.metrics)

    def remove(self, job_id: int, before_commit: Callable[[], None]) -> bool:
        """Forget a job that is finished, with all that is known of it; False if it is not finished, or not there.

        `before_commit` is called in the transaction: nobody can have the job tried again meanwhile.
        """
        with self._transaction():
            row = self._db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None or row["state"] != State.FINISHED:
                return False
            for table in ("metrics", "events", "attempts"):
                self._db.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            before_commit()
            return True

    # -- who dispatches -----------------------------------------------------------------------------------------

    def register_dispatcher(self, identity: Identity) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO dispatcher VALUES (1, ?, ?, ?, ?)",
            (identity.pid, identity.start_ticks, identity.boot_id, self._now()),
        )

    def unregister_dispatcher(self, identity: Identity, *, only_if_idle: bool) -> bool:
        """Give up the post; with `only_if_idle`, not while there is anything to do. Whether it was given up."""
        with self._transaction():
            if only_if_idle and self.has_work():
                return False
            self._db.execute("DELETE FROM dispatcher WHERE pid = ?", (identity.pid,))
            return True


def _connected(path: Path, *, alone: bool = False) -> sqlite3.Connection:
    """While it is `alone`, SQLite keeps the index of its log in memory: https://www.sqlite.org/wal.html, section 8."""
    database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    database.row_factory = sqlite3.Row
    if alone:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
    return database


def _attempt(row: sqlite3.Row) -> Attempt:
    try:
        return msgspec.convert(dict(row), Attempt, strict=False)
    except msgspec.MsgspecError as error:
        raise DamagedStoreError(f"attempts of job {row['job_id']}", str(error)) from error
