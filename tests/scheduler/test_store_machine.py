"""Any sequence of what people and the dispatcher do leaves the real store consistent."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from builders import ORIGIN, MiB, metrics, prediction, spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from scratch import scratch_folder

from jobs.run_dir import Progress
from scheduler.records import Attempt, Job
from scheduler.states import LIVE, TRANSITIONS, Outcome, State
from scheduler.store import Store


class Queue(RuleBasedStateMachine):
    """Submit, place, run, end, cancel, retry, and the store closed and opened again in between."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch_folder()
        self.ticks: Iterator[int] = count()
        self.store = self.open()
        self.before: dict[int, Job] = {}
        self.retried: set[int] = set()

    def open(self) -> Store:
        return Store(Path(self.folder.name) / "gpuq.db", now=lambda: f"tick {next(self.ticks)}")

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def live_attempt(self, job_id: int) -> Attempt | None:
        return next((one for one in self.store.live_attempts() if one.job_id == job_id), None)

    # -- what people do

    @rule(target=jobs, priority=st.integers(-1, 1))
    def submit(self, priority: int) -> Any:
        [job_id], _ = self.store.submit([spec(priority=priority)], ORIGIN)
        return job_id

    @rule(job=jobs)
    def cancel(self, job: int) -> None:
        self.store.cancel(job)

    @rule(job=jobs)
    def retry(self, job: int) -> None:
        if self.store.retry(job):
            self.retried.add(job)

    # -- what the dispatcher does

    @rule(job=jobs, reservation=st.integers(1, 100))
    def place(self, job: int, reservation: int) -> None:
        self.store.place(job, reservation * MiB, prediction())

    @rule(job=jobs, step=st.integers(0, 1000))
    def run(self, job: int, step: int) -> None:
        if (live := self.live_attempt(job)) is not None:
            self.store.mark_running(job, live.number, Progress(parameters=1, resumed_from_step=step, steps=20_000))

    @rule(job=jobs, epoch=st.integers(1, 5))
    def progress(self, job: int, epoch: int) -> None:
        if (live := self.live_attempt(job)) is not None:
            self.store.record_metrics(job, live.number, [metrics(epoch)], eta_s=1.0)

    @rule(job=jobs, outcome=st.sampled_from(Outcome), requeue=st.booleans())
    def end(self, job: int, outcome: Outcome, requeue: bool) -> None:
        if (live := self.live_attempt(job)) is not None:
            self.store.end_attempt(live, outcome, "why", requeue=requeue, exit_code=1, peak_bytes=MiB)

    @rule(job=jobs, outcome=st.sampled_from(Outcome), requeue=st.booleans())
    def end_an_old_attempt_again(self, job: int, outcome: Outcome, requeue: bool) -> None:
        for old in self.store.attempts(job):
            if old.ended_at is not None:
                self.store.end_attempt(old, outcome, "late", requeue=requeue, exit_code=9, peak_bytes=None)

    @rule(job=jobs)
    def give_up(self, job: int) -> None:
        self.store.finish_queued(job, Outcome.FAILED, "cannot fit")

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    # -- what holds all the time

    @invariant()
    def an_outcome_belongs_to_a_finished_job(self) -> None:
        for job in self.store.jobs():
            assert (job.outcome is not None) == (job.state is State.FINISHED) == (job.finished_at is not None)

    @invariant()
    def a_live_job_has_one_live_attempt_and_no_other_has_any(self) -> None:
        held = [one.job_id for one in self.store.live_attempts()]
        assert held == [job.id for job in self.store.jobs() if job.state in LIVE]

    @invariant()
    def attempts_are_numbered_without_gaps(self) -> None:
        for job in self.store.jobs():
            numbers = [one.number for one in self.store.attempts(job.id)]
            assert numbers == list(range(1, len(numbers) + 1))

    @invariant()
    def a_wish_is_only_of_a_live_job(self) -> None:
        assert all(job.wish is None or job.is_live for job in self.store.jobs())

    @invariant()
    def jobs_move_only_as_allowed_and_finished_ones_only_by_retry(self) -> None:
        now = {job.id: job for job in self.store.jobs()}
        for job_id, old in self.before.items():
            new = now[job_id]
            assert new.state is old.state or (old.state, new.state) in TRANSITIONS
            assert old.state is not State.FINISHED or new == old or job_id in self.retried
        self.before, self.retried = now, set()


Queue.TestCase.settings = settings(deadline=None, max_examples=25, stateful_step_count=30, derandomize=True)
TestQueue = Queue.TestCase
