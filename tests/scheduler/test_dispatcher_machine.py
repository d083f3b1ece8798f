"""Any night, over the real store, files and dispatcher: whatever people, workers, kills and reboots do, it adds up."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from bench import Bench, Engine, Estimator
from builders import ORIGIN, STEPS, GiB, MiB, metrics, spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scratch import scratch_folder

from jobs.run_dir import ExitCode, KilledFor, Launch, Progress, RunDir, append_line, read_metrics, read_whole
from jobs.trace_messages import Reply
from scheduler.home import Home
from scheduler.records import Attempt, Job
from scheduler.states import State
from scheduler.store import Store
from scheduler.tracing import Failed

ENDINGS: list[dict[str, Any]] = [
    *({"exit_code": code} for code in ExitCode if code is not ExitCode.STOPPED),
    {"signal": 9},
    {"signal": 11},
    {"signal": 9, "killed_for": KilledFor.MEMORY},
    {"signal": 9, "killed_for": KilledFor.HANG, "hung_s": 600.0, "stop_requested": True},
    {},  # vanished with its parent process
]
EPOCHS = 10
WISHES = st.tuples(st.sampled_from(["cancel", "retry", "pause", "resume"]), st.integers(0, 5))
ATTEMPTS = st.tuples(st.sampled_from([*ENDINGS, *[None] * len(ENDINGS)]), st.integers(0, 3))
ANSWERS = st.sampled_from(["bytes", "bytes", "untraceable", "no network"])
TICKS = st.integers(0, 2)


class Died(BaseException):
    """What SIGKILL does to the dispatcher: a transaction that is open is never committed."""


class MortalStore(Store):
    """A dispatcher's store, with which it dies at the event before whose row there were `lives` others."""

    lives: int | None = None

    def _event(self, job_id: int, kind: str, detail: str | None = None) -> None:
        super()._event(job_id, kind, detail)
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Died


class Processes(Engine):
    """Attempts that never run two at once for the same job."""

    def start(self, files: RunDir, launch: Launch) -> None:
        assert not [folder for folder in self.alive() if folder.is_relative_to(files.path)], "a job runs twice"
        super().start(files, launch)

    def alive(self) -> list[Path]:
        return [folder for folder in self.launches if folder not in self.ended]

    def vanish(self) -> None:
        for folder in self.alive():
            del self.launches[folder]


class Night(RuleBasedStateMachine):
    """The dispatcher acts in its ticks only, so it may as well die and return at once.

    Hypothesis leaves rules out at random; so what every night needs is in one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch_folder()
        self.home = Home(Path(self.folder.name) / "home").create()
        self.seconds: Iterator[int] = count()
        self.store = MortalStore(self.home.store, now=lambda: f"second {next(self.seconds):06}")
        self.engine = Processes(self.store)
        self.bench = Bench(self.home, self.store, self.engine)
        self.before: dict[int, Job] = {}
        self.reserved: dict[tuple[int, int], int] = {}
        self.retried: set[int] = set()

    def teardown(self) -> None:
        self.nothing_is_stranded()
        self.store.close()
        self.folder.cleanup()

    def chosen(self, index: int) -> Attempt | None:
        """One of the attempts whose processes live."""
        alive = self.engine.alive()
        live = [one for one in self.store.live_attempts() if self.bench.files(one.job_id).folder in alive]
        return live[index % len(live)] if live else None

    # -- what people do

    @initialize()
    def evening(self) -> None:
        for memory, priority in ((None, 0), ("100 MiB", 1), ("900 MiB", 0)):
            self.submit(memory, priority, ticks=1)

    @rule(memory=st.sampled_from([None, "100 MiB", "900 MiB", "2 GiB"]), priority=st.integers(0, 1), ticks=TICKS)
    def submit(self, memory: str | None, priority: int, ticks: int) -> None:
        self.store.submit([spec(memory=memory, priority=priority, threads=1 + priority)], ORIGIN)
        self.tick(ticks)

    @rule(pause=st.sampled_from(["running go on", "running stop", "resume", "resume"]))
    def somebody_holds_the_queue(self, pause: str) -> None:
        if pause == "resume":
            self.store.resume_queue()
        else:
            self.store.pause_queue(running_go_on=pause == "running go on")

    # -- what the machine and the workers do

    @rule(others=st.sampled_from([0, 300 * MiB, GiB]), error=st.sampled_from([None, None, "NVML: unknown error"]))
    def the_device_changes(self, others: int, error: str | None) -> None:
        self.bench.machine.others_bytes, self.bench.machine.error = others, error

    @rule(wishes=st.lists(WISHES, max_size=2), attempts=st.lists(ATTEMPTS, max_size=2), answer=ANSWERS, ticks=TICKS)
    def a_while_passes(
        self, wishes: list[tuple[str, int]], attempts: list[tuple[dict[str, Any] | None, int]], answer: str, ticks: int
    ) -> None:
        for verb, index in wishes:
            self.somebody_wants(verb, index)
        for ending, index in attempts:
            self.an_attempt_gets_on(ending, index)
        self.a_trace_ends(answer)
        self.tick(ticks)

    def somebody_wants(self, verb: str, index: int) -> None:
        jobs = self.store.jobs()
        job_id = jobs[index % len(jobs)].id
        if getattr(self.store, verb)(job_id) is True:
            self.retried.add(job_id)

    def an_attempt_gets_on(self, ending: dict[str, Any] | None, index: int) -> None:
        """Or ends; as stopped, if it was asked to."""
        if (attempt := self.chosen(index)) is None:
            return
        if ending is None:
            self.training_gets_on(attempt.job_id)
        elif self.bench.files(attempt.job_id).folder in self.engine.asked_to_stop:
            self.bench.end(attempt.job_id, exit_code=ExitCode.STOPPED, stop_requested=True)
        else:
            self.bench.end(attempt.job_id, **ending)

    def a_trace_ends(self, answer: str) -> None:
        for key in sorted(self.bench.estimator.pending)[:1]:
            reply = Reply(key=key, components={"weights": 200 * MiB})
            failed = Failed(answer, untraceable=answer == "untraceable")
            self.bench.estimator.answers[key] = reply if answer == "bytes" else failed

    def training_gets_on(self, job_id: int) -> None:
        """From an epoch to the next."""
        files = self.home.run_dir(job_id)
        last = max((line.epoch for line in read_metrics(files.metrics)), default=0)
        if read_whole(self.bench.files(job_id).progress, Progress) is None:
            self.bench.begin(job_id, last * STEPS)
        if last < EPOCHS:
            append_line(files.metrics, metrics(last + 1, peak_bytes=150 * MiB))

    @rule(index=st.integers(0, 3), left_bytes=st.sampled_from([60 * MiB, 160 * MiB]))
    def a_worker_gives_back(self, index: int, left_bytes: int) -> None:
        """What it does not need of its reservation, once it has shown its peak, if it may."""
        attempt = self.chosen(index)
        if attempt is not None and self.bench.launch(attempt.job_id).gives_back:
            self.training_gets_on(attempt.job_id)
            self.bench.give_back(attempt.job_id, min(left_bytes, self.cap_bytes(attempt.job_id)))
        self.tick(1)

    def cap_bytes(self, job_id: int) -> int:
        """What the worker of a live attempt is held to, by its own words."""
        progress = read_whole(self.bench.files(job_id).progress, Progress)
        reserved = self.bench.launch(job_id).reservation_bytes
        return reserved if progress is None else progress.left_of(reserved)

    # -- what the dispatcher does, and what becomes of it

    def tick(self, times: int) -> None:
        for _ in range(times):
            starts = len(self.engine.reserved_at_start)
            self.bench.tick()
            budget = GiB - self.bench.machine.others_bytes
            assert all(reserved <= budget for reserved in self.engine.reserved_at_start[starts:])

    @rule(lives=st.sampled_from([None, 0, 1, 2]))
    def the_dispatcher_dies(self, lives: int | None) -> None:
        """In a transaction of a tick, or between what it places and the start of that."""
        self.store.lives, self.engine.fails_to_start = lives, lives is None
        try:
            self.bench.tick()
        except (Died, KeyboardInterrupt):
            self.another_dispatcher()
        finally:
            self.store.lives, self.engine.fails_to_start = None, False

    @rule(reboots=st.booleans(), ticks=TICKS)
    def the_processes_die(self, reboots: bool, ticks: int) -> None:
        """All of them, or the dispatcher alone, between its ticks."""
        if reboots:
            self.engine.vanish()
        self.another_dispatcher()
        self.tick(ticks)

    def another_dispatcher(self) -> None:
        self.bench.estimator = Estimator()  # its child process died with it
        self.bench.dispatcher = self.bench.new_dispatcher()

    def nothing_is_stranded(self) -> None:
        """Once what is held is resumed and there is room, the dispatcher brings every job to its end."""
        self.the_device_changes(0, None)
        self.store.resume_queue()
        for job in self.store.jobs():
            self.store.resume(job.id)
        for _ in range(3 * len(self.store.jobs()) + 2):
            self.a_trace_ends("bytes")
            self.tick(1)
            for _ in self.engine.alive():
                self.an_attempt_gets_on({"exit_code": ExitCode.SUCCEEDED}, 0)
        assert [job for job in self.store.jobs() if job.state is not State.FINISHED] == []

    # -- what holds all the time

    @invariant()
    def reservations_do_not_exceed_the_device(self) -> None:
        live = self.store.live_attempts()
        assert sum(one.reservation_bytes for one in live) <= GiB
        assert sum(self.store.job(one.job_id).spec.resources.threads for one in live) <= 4

    @invariant()
    def workers_are_held_to_no_more_than_is_reserved_for_them(self) -> None:
        """Whatever their dispatcher has taken note of yet: so they fit the device together, too."""
        for folder in self.engine.alive():
            job_id = int(folder.parents[1].name)
            assert self.cap_bytes(job_id) <= self.bench.attempt(job_id).reservation_bytes

    @invariant()
    def reservations_never_rise(self) -> None:
        for one in self.store.attempts():
            before = self.reserved.get((one.job_id, one.number), one.reservation_bytes)
            assert one.reservation_bytes <= before
            self.reserved[one.job_id, one.number] = one.reservation_bytes

    @invariant()
    def every_process_belongs_to_a_live_attempt(self) -> None:
        live = {self.bench.files(one.job_id).folder for one in self.store.live_attempts()}
        assert set(self.engine.alive()) <= live

    @invariant()
    def jobs_move_only_as_allowed_and_finished_ones_only_by_retry(self) -> None:
        now = {job.id: job for job in self.store.jobs()}
        for job_id, old in self.before.items():
            if old.state is State.FINISHED and job_id not in self.retried:
                assert now[job_id] == old
        self.before, self.retried = now, set()

    @invariant()
    def after_the_end_of_a_job_nothing_happens_but_a_retry(self) -> None:
        events = self.store._db.execute("SELECT job_id, kind FROM events ORDER BY id").fetchall()
        last: dict[int, str] = {}
        for job_id, kind in events:
            assert last.get(job_id) != "finished" or kind == "retried", (job_id, kind)
            last[job_id] = kind


Night.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=30, derandomize=True)
TestNight = Night.TestCase
