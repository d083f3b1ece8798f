"""The one place where a job's state changes: a compare-and-swap with its event, in one transaction."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from scheduler.errors import DamagedStoreError, UnknownJobError
from scheduler.records import Job
from scheduler.states import TRANSITIONS, Outcome, State


class Transitions:
    """What every change of the queue is made of. `scheduler.store.Store` opens `_db`, and sets the clock `_now`."""

    _db: sqlite3.Connection
    _now: Callable[[], str]

    def job(self, job_id: int) -> Job:
        """Raises UnknownJobError."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJobError(job_id)
        return as_job(row)

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

    def _insert_row(self, table: str, **values: Any) -> int:
        """Returns its rowid: a job's id."""
        marks = ", ".join("?" * len(values))
        statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
        rowid = self._db.execute(statement, tuple(values.values())).lastrowid
        assert rowid is not None
        return rowid

    def _count_attempts(self, job_id: int) -> int:
        row = self._db.execute("SELECT count(*) FROM attempts WHERE job_id = ?", (job_id,)).fetchone()
        return int(row[0])

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
        """Change a job's state, only from `source`, with its event; whether it was changed."""
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


def as_job(row: sqlite3.Row) -> Job:
    """A row of the table `jobs` as a record. Raises DamagedStoreError for anything else."""
    values = dict(row)
    try:
        for column in ("spec", "estimate"):
            if values.get(column) is not None:
                values[column] = msgspec.json.decode(values[column])
        return msgspec.convert(values, Job, strict=False)
    except (msgspec.MsgspecError, TypeError) as error:
        raise DamagedStoreError(f"job {values.get('id')}", str(error)) from error
