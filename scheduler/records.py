"""The store's rows as records."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from jobs.run_dir import Metrics
from jobs.spec import JobSpec
from scheduler.estimate import Basis, Estimate
from scheduler.states import LIVE, Outcome, State, Wish


class Job(Struct, frozen=True, kw_only=True):
    """A job as the store knows it. Times are UTC, ISO 8601; accuracies are fractions."""

    id: int
    name: str
    spec: JobSpec
    priority: int
    state: State
    outcome: Outcome | None
    reason: str | None
    wish: Wish | None
    submitted_at: str
    submitted_from: str
    git_commit: str | None
    git_dirty: bool | None
    finished_at: str | None
    forgiven_attempts: int
    estimate: Estimate | None
    reservation_bytes: int | None
    parameters: int | None
    epoch: int
    step: int
    steps: int | None
    best_validation_accuracy: float | None
    test_accuracy: float | None
    elapsed_s: float
    eta_s: float | None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_paused(self) -> bool:
        """Held; or, of a live job, to be held when its attempt has ended."""
        return self.wish is Wish.PAUSE


class Prediction(Struct, frozen=True, kw_only=True):
    """What was known of an attempt's memory when it was placed, and on which device."""

    signature: str
    device_kind: str
    device_name: str
    predicted_bytes: int  # without the margin
    basis: Basis


class Attempt(Struct, frozen=True, kw_only=True):
    """One execution of a job."""

    job_id: int
    number: int
    signature: str
    device_kind: str
    device_name: str
    predicted_bytes: int
    basis: Basis
    reservation_bytes: int
    started_at: str
    ended_at: str | None
    outcome: Outcome | None
    reason: str | None
    pid: int | None
    exit_code: int | None
    peak_bytes: int | None
    shows_peak: bool
    start_step: int | None


class Origin(Struct, frozen=True, kw_only=True):
    """Where jobs were submitted from."""

    directory: str
    git_commit: str | None = None
    git_dirty: bool | None = None


class QueuePause(Struct, frozen=True, kw_only=True):
    """The whole queue is paused: no job starts, whenever it is submitted."""

    paused_at: str
    reason: str | None  # None if a person wanted it
    running_go_on: bool  # else they write a checkpoint and are queued again


class Remains(Struct, frozen=True, kw_only=True):
    """What is left of a job whose store was lost: columns of its row, its attempts and its metrics."""

    row: Mapping[str, Any]
    attempts: Sequence[Attempt] = ()
    metrics: Sequence[Metrics] = ()

    @property
    def id(self) -> int:
        return int(self.row["id"])

    @property
    def is_queued(self) -> bool:
        return self.row["state"] is State.QUEUED
