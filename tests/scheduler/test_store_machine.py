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
from scheduler.pausing import held
from scheduler.process import Identity
from scheduler.records import Attempt, Job
from scheduler.states import LIVE, TRANSITIONS, Outcome, State
from scheduler.store import Store


class Queue(RuleBasedStateMachine):
    """Submit, place, run, end, cancel, retry, pause, resume, and the store closed and opened again in between."""

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
        self.nothing_is_stranded()
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

    @rule(job=jobs)
    def pause(self, job: int) -> None:
        self.store.pause(job)

    @rule(job=jobs)
    def resume(self, job: int) -> None:
        self.store.resume(job)

    @rule(running_go_on=st.booleans())
    def pause_queue(self, running_go_on: bool) -> None:
        self.store.pause_queue(running_go_on=running_go_on)

    @rule()
    def resume_queue(self) -> None:
        self.store.resume_queue()

    # -- what the dispatcher does

    @rule(job=jobs, reservation=st.integers(1, 100))
    def place(self, job: int, reservation: int) -> None:
        before, pause = self.store.job(job), self.store.queue_pause()
        number = self.store.place(job, reservation * MiB, prediction())
        assert (number is None) == (before.state is not State.QUEUED or before.is_paused or pause is not None)

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

    def nothing_is_stranded(self) -> None:
        """Once what is held is resumed, every job that has not ended can be brought to its end."""
        self.store.resume_queue()
        for job in self.store.jobs():
            self.store.resume(job.id)
            self.store.place(job.id, MiB, prediction())
            self.end(job.id, Outcome.SUCCEEDED, requeue=False)
        assert not self.store.has_unfinished()

    # -- who dispatches

    @rule(pid=st.integers(1, 3))
    def take_the_post(self, pid: int) -> None:
        """Whoever died there before."""
        self.store.register_dispatcher(Identity(pid, start_ticks=1, boot_id="a boot"))
        assert self.store.dispatcher() == Identity(pid, start_ticks=1, boot_id="a boot")

    @rule(only_if_idle=st.booleans())
    def give_up_the_post(self, only_if_idle: bool) -> None:
        if (holder := self.store.dispatcher()) is not None:
            given_up = self.store.unregister_dispatcher(holder, only_if_idle=only_if_idle)
            assert given_up == (not only_if_idle or not self.store.has_work())
            assert (self.store.dispatcher() is None) == given_up

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
    def a_wish_is_of_a_live_job_or_holds_a_queued_one(self) -> None:
        for job in self.store.jobs():
            assert job.wish is None or job.is_live or (job.is_paused and job.state is State.QUEUED)

    @invariant()
    def there_is_work_where_a_job_lives_or_is_queued_and_not_held(self) -> None:
        jobs, pause = self.store.jobs(), self.store.queue_pause()
        may_start = [job for job in jobs if job.state is State.QUEUED and job not in held(jobs, pause)]
        assert self.store.startable() == may_start
        assert self.store.has_work() == bool(may_start or any(job.is_live for job in jobs))

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
