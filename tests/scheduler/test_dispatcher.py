"""One tick of the dispatcher: the real store and files, with processes, tracing and the device by hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builders import ORIGIN, GiB, MiB, ended, metrics, spec

from jobs.run_dir import (
    AttemptFiles,
    ExitCode,
    ExitRecord,
    Failure,
    KilledFor,
    Launch,
    Peak,
    Progress,
    Result,
    RunDir,
    append_metrics,
    drop_metrics_after,
    write_record,
)
from jobs.spec import JobSpec
from jobs.trace_messages import Reply
from scheduler.device import CpuDevice, Snapshot
from scheduler.device_view import read_view
from scheduler.dispatcher import Dispatcher
from scheduler.errors import DeviceUnreadableError
from scheduler.estimate import Basis
from scheduler.home import Home
from scheduler.records import Attempt, Job
from scheduler.states import Outcome, State
from scheduler.store import Store
from scheduler.tracing import Failed


class Engine:
    """Attempts without processes: they live until a test ends them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.launches: dict[Path, Launch] = {}
        self.reserved_at_start: list[int] = []
        self.ended: dict[Path, ExitRecord] = {}
        self.asked_to_stop: set[Path] = set()
        self.fails_to_start = False

    def start(self, files: RunDir, launch: Launch) -> None:
        if self.fails_to_start:
            raise KeyboardInterrupt  # the dispatcher dies here
        self.launches[files.attempt(launch.number).folder] = launch
        self.reserved_at_start.append(sum(one.reservation_bytes for one in self._store.live_attempts()))

    def poll(self, attempt: AttemptFiles) -> ExitRecord | None:
        if attempt.folder not in self.launches:
            return ended()  # never started, or vanished
        return self.ended.get(attempt.folder)

    def stop(self, attempt: AttemptFiles) -> None:
        self.asked_to_stop.add(attempt.folder)

    def worker_pid(self, attempt: AttemptFiles) -> int | None:
        return 4300 if attempt.folder in self.launches else None


class Estimator:
    """Traces nothing by itself: a test answers."""

    def __init__(self) -> None:
        self.asked: dict[int, JobSpec] = {}
        self.answers: dict[int, Reply | Failed] = {}
        self.closed = False

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self.asked)

    def ask(self, key: int, spec: JobSpec, *, prepare: bool) -> None:
        assert prepare
        self.asked[key] = spec

    def poll(self) -> dict[int, Reply | Failed]:
        known, self.answers = self.answers, {}
        for key in known:
            del self.asked[key]
        return known

    def close(self) -> None:
        self.closed = True


class Machine(CpuDevice):
    """A CPU device of four cores and 1 GiB, used as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.others_bytes = 0
        self.used_by_worker: dict[int, int] = {}
        self.error: str | None = None

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        if self.error is not None:
            raise DeviceUnreadableError(self.error)
        return Snapshot(
            name="a machine",
            kind="cpu",
            total_bytes=GiB,
            used_by_gpuq_bytes=sum(self.used_by_worker.values()),
            used_by_others_bytes=self.others_bytes,
            headroom_bytes=0,
            threads=4,
            used_by_worker={pid: self.used_by_worker.get(pid, 0) for pid in workers},
        )


@dataclass
class Bench:
    """A dispatcher among its stand-ins, and a queue to feed it."""

    home: Home
    store: Store
    engine: Engine
    machine: Machine = field(default_factory=Machine)
    estimator: Estimator = field(default_factory=Estimator)

    def __post_init__(self) -> None:
        self.dispatcher = self.new_dispatcher()

    def new_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self.home,
            self.store,
            self.machine,
            supervisor=self.engine,  # type: ignore[arg-type]
            tracer=self.estimator,  # type: ignore[arg-type]
        )

    def submit(self, memory: str | None = "100 MiB", **fields: object) -> int:
        return self.store.submit([spec(memory=memory, **fields)], ORIGIN)[0][0]  # type: ignore[arg-type]

    def tick(self) -> None:
        self.dispatcher.tick()

    def started(self, **fields: object) -> int:
        job_id = self.submit(**fields)  # type: ignore[arg-type]
        self.tick()
        assert self.job(job_id).state is State.STARTING
        return job_id

    def job(self, job_id: int) -> Job:
        return self.store.job(job_id)

    def attempt(self, job_id: int) -> Attempt:
        return self.store.attempts(job_id)[-1]

    def files(self, job_id: int) -> AttemptFiles:
        return self.home.run_dir(job_id).attempt(self.attempt(job_id).number)

    def launch(self, job_id: int) -> Launch:
        return self.engine.launches[self.files(job_id).folder]

    def begin(self, job_id: int, step: int = 0) -> None:
        write_record(self.files(job_id).progress, Progress(parameters=1000, resumed_from_step=step))

    def end(self, job_id: int, **record: object) -> None:
        self.engine.ended[self.files(job_id).folder] = ended(**record)

    def starting(self) -> list[int]:
        return [job.id for job in self.store.jobs() if job.state is State.STARTING]


@pytest.fixture
def bench(home: Home, store: Store) -> Iterator[Bench]:
    yield Bench(home, store, Engine(store))


# -- placing ----------------------------------------------------------------------------------------------------


def test_a_job_that_fits_is_started_with_what_was_decided(bench: Bench) -> None:
    job_id = bench.started(memory="100 MiB", threads=2)
    launch = bench.launch(job_id)
    assert (launch.number, launch.device) == (1, "cpu")
    assert launch.reservation_bytes == launch.resident_limit_bytes == 100 * MiB
    assert launch.environment["OMP_NUM_THREADS"] == "2"
    assert bench.home.run_dir(job_id).read_spec() == bench.job(job_id).spec


def test_memory_is_reserved_before_a_job_starts(bench: Bench) -> None:
    for memory in ("400 MiB", "300 MiB"):
        bench.submit(memory=memory)
    bench.tick()
    assert bench.engine.reserved_at_start == [400 * MiB, 700 * MiB]


def test_as_many_start_as_fit_and_the_rest_says_why_it_waits(bench: Bench) -> None:
    small, large, other = (bench.submit(memory=memory) for memory in ("200 MiB", "600 MiB", "500 MiB"))
    bench.tick()
    assert bench.starting() == [small, large]
    assert bench.job(other).reason == "needs 500 MiB, 424 MiB free"


def test_a_waiting_job_starts_when_another_has_ended(bench: Bench) -> None:
    first, second = bench.submit(memory="600 MiB"), bench.submit(memory="600 MiB")
    bench.tick()
    bench.end(first, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.starting() == [second]
    assert bench.job(second).reason is None


def test_nothing_starts_twice(bench: Bench) -> None:
    bench.started()
    bench.tick()
    assert len(bench.engine.launches) == 1


def test_memory_of_others_is_respected(bench: Bench) -> None:
    bench.machine.others_bytes = 800 * MiB
    job_id = bench.submit(memory="300 MiB")
    bench.tick()
    assert bench.job(job_id).reason == "needs 300 MiB, 224 MiB free (800 MiB used by others)"
    bench.machine.others_bytes = 0
    bench.tick()
    assert bench.starting() == [job_id]


def test_a_worker_that_holds_more_than_its_reservation_leaves_that_much_less(bench: Bench) -> None:
    bench.started(memory="100 MiB")
    bench.tick()
    bench.machine.used_by_worker = {4300: 700 * MiB}
    waiting = bench.submit(memory="400 MiB")
    bench.tick()
    assert bench.job(waiting).reason == "needs 400 MiB, 324 MiB free"


def test_a_job_that_can_never_fit_fails_with_advice(bench: Bench) -> None:
    job_id = bench.submit(memory="2 GiB")
    bench.tick()
    job = bench.job(job_id)
    assert job.outcome is Outcome.FAILED
    assert job.reason is not None
    assert "a smaller train.batch_size or model may fit" in job.reason


def test_nothing_starts_while_the_device_cannot_be_read(bench: Bench) -> None:
    bench.machine.error = "GPU 0 cannot be read: Driver Not Loaded"
    job_id = bench.submit()
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).reason) == (State.QUEUED, bench.machine.error)
    bench.machine.error = None
    bench.tick()
    assert bench.starting() == [job_id]


def test_what_ends_is_followed_even_while_the_device_cannot_be_read(bench: Bench) -> None:
    job_id = bench.started()
    bench.machine.error = "GPU 0 cannot be read"
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.SUCCEEDED


def test_the_device_is_left_for_others_to_see(bench: Bench) -> None:
    bench.started(memory="100 MiB")
    bench.tick()
    view = read_view(bench.home.device_view)
    assert view is not None
    assert (view.snapshot.name, view.reserved_bytes, view.error) == ("a machine", 100 * MiB, None)


def test_why_a_device_cannot_be_read_is_left_for_others_to_see(bench: Bench) -> None:
    bench.machine.error = "GPU 0 cannot be read"
    bench.tick()
    view = read_view(bench.home.device_view)
    assert view is not None
    assert view.error == "GPU 0 cannot be read"


# -- estimating -------------------------------------------------------------------------------------------------


def test_a_job_waits_for_its_estimate(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    assert bench.estimator.pending == {job_id}
    assert bench.job(job_id).reason == "its memory is being estimated"


def test_a_traced_job_is_placed_with_a_margin(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {job_id: Reply(key=job_id, components={"all": 100 * MiB}, parameters=5)}
    bench.tick()
    assert bench.launch(job_id).reservation_bytes == 115 * MiB
    assert bench.job(job_id).parameters == 5


def test_a_job_that_cannot_be_traced_fails_and_the_rest_goes_on(bench: Bench) -> None:
    bad, good = bench.submit(memory=None), bench.submit()
    bench.tick()
    bench.estimator.answers = {bad: Failed("ModelError: no network called 'resv9'")}
    bench.tick()
    assert (bench.job(bad).outcome, bench.job(bad).reason) == (Outcome.FAILED, "ModelError: no network called 'resv9'")
    assert bench.starting() == [good]


def test_a_job_cancelled_while_it_is_traced_stays_cancelled(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.store.cancel(job_id)
    bench.estimator.answers = {job_id: Failed("ended by SIGSEGV")}
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.CANCELLED


def test_a_job_whose_like_has_run_is_placed_by_what_that_used(bench: Bench) -> None:
    first = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {first: Reply(key=first, components={"all": 200 * MiB}, parameters=5)}
    bench.tick()
    bench.end(first, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=100 * MiB)
    second = bench.submit(memory=None, name="the same again")
    bench.tick()
    assert bench.launch(second).reservation_bytes == 105 * MiB
    assert bench.job(second).estimate.basis is Basis.MEASURED  # type: ignore[union-attr]


def test_a_job_that_waits_is_corrected_by_what_its_like_used_meanwhile(bench: Bench) -> None:
    first, second = bench.submit(memory=None), bench.submit(memory=None)
    bench.tick()
    reply = {"components": {"all": 600 * MiB}, "parameters": 5}
    bench.estimator.answers = {key: Reply(key=key, **reply) for key in (first, second)}  # type: ignore[arg-type]
    bench.tick()
    assert bench.starting() == [first]
    bench.end(first, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=300 * MiB)
    bench.tick()
    assert bench.launch(second).reservation_bytes == 315 * MiB


def test_a_users_network_that_is_gone_does_not_stop_the_dispatcher(bench: Bench, tmp_path: Path) -> None:
    gone, fine = bench.submit(memory=None, network=f"{tmp_path}/gone.py:build"), bench.submit()
    bench.tick()
    assert bench.starting() == [fine]
    assert bench.estimator.pending == {gone}


# -- following --------------------------------------------------------------------------------------------------


def test_a_job_runs_once_its_worker_trains(bench: Bench) -> None:
    job_id = bench.started()
    bench.tick()
    assert (bench.job(job_id).state, bench.attempt(job_id).pid) == (State.STARTING, 4300)
    bench.begin(job_id, step=300)
    bench.tick()
    assert (bench.job(job_id).state, bench.attempt(job_id).start_step) == (State.RUNNING, 300)
    assert bench.job(job_id).parameters == 1000


def test_epochs_become_progress(bench: Bench) -> None:
    job_id = bench.started(epochs=10)
    bench.begin(job_id)
    for epoch, accuracy in [(1, 0.5), (2, 0.7), (3, 0.6)]:
        append_metrics(bench.home.run_dir(job_id).metrics, metrics(epoch, accuracy=accuracy, peak_bytes=epoch * MiB))
        bench.tick()
    job = bench.job(job_id)
    assert (job.epoch, job.best_validation_accuracy, job.elapsed_s, job.eta_s) == (3, 0.7, 30.0, 70.0)
    assert bench.attempt(job_id).peak_bytes == 3 * MiB


def test_half_a_line_of_metrics_waits_for_its_other_half(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    path = bench.home.run_dir(job_id).metrics
    append_metrics(path, metrics(1))
    append_metrics(path, metrics(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    bench.tick()
    assert bench.job(job_id).epoch == 1
    path.write_bytes(whole)
    bench.tick()
    assert bench.job(job_id).epoch == 2


def test_a_resumed_attempt_goes_back_to_its_checkpoint(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    path = bench.home.run_dir(job_id).metrics
    for epoch in (1, 2, 3):
        append_metrics(path, metrics(epoch, accuracy=epoch / 10))
    bench.end(job_id, signal=9)
    bench.tick()
    bench.tick()
    assert bench.job(job_id).epoch == 3  # until it trains again, what it reached is what there is
    drop_metrics_after(path, 1)
    bench.begin(job_id, step=100)
    bench.tick()
    assert (bench.job(job_id).epoch, bench.job(job_id).best_validation_accuracy) == (1, 0.1)


def test_what_a_worker_wrote_just_before_its_end_counts(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id, step=200)
    append_metrics(bench.home.run_dir(job_id).metrics, metrics(7))
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).epoch) == (State.FINISHED, 7)
    assert bench.attempt(job_id).start_step == 200


# -- ending -----------------------------------------------------------------------------------------------------


def test_a_job_that_succeeded_reports_its_test_accuracy(bench: Bench) -> None:
    job_id = bench.started()
    result = Result(
        epochs=10,
        best_epoch=9,
        best_train_accuracy=0.99,
        best_validation_accuracy=0.91,
        test_loss=0.4,
        test_accuracy=0.9,
        parameters=1000,
        stopped_early=False,
    )
    write_record(bench.home.run_dir(job_id).result, result)
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert (bench.job(job_id).outcome, bench.job(job_id).test_accuracy) == (Outcome.SUCCEEDED, 0.9)


@pytest.mark.parametrize(
    ("record", "code"), [({"exit_code": 17}, 17), ({"signal": 9}, -9), ({}, None)], ids=["code", "signal", "unknown"]
)
def test_an_attempt_keeps_its_exit_code_or_the_negated_signal(
    bench: Bench, record: dict[str, int], code: int | None
) -> None:
    job_id = bench.started()
    bench.end(job_id, **record)
    bench.tick()
    assert bench.store.attempts(job_id)[0].exit_code == code


def test_the_peak_is_the_larger_of_what_worker_and_kernel_say(bench: Bench) -> None:
    job_id = bench.started()
    write_record(bench.files(job_id).peak, Peak(peak_bytes=70 * MiB))
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=80 * MiB)
    bench.tick()
    assert bench.attempt(job_id).peak_bytes == 80 * MiB


def test_a_failure_tells_the_workers_own_words(bench: Bench) -> None:
    job_id = bench.started()
    write_record(bench.files(job_id).failure, Failure(kind="DataError", message="no images in ~/datasets"))
    bench.end(job_id, exit_code=ExitCode.REFUSED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.FAILED
    assert bench.job(job_id).reason == "no images in ~/datasets"


def test_a_job_that_ran_out_of_memory_starts_again_with_half_as_much_more(bench: Bench) -> None:
    job_id = bench.started(memory="100 MiB")
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY)
    bench.tick()
    assert bench.launch(job_id).number == 2
    assert bench.launch(job_id).reservation_bytes == 150 * MiB


def test_a_job_that_no_longer_fits_the_device_fails_with_the_reason(bench: Bench) -> None:
    job_id = bench.started(memory="800 MiB")
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.FAILED
    assert "needs 1.2 GiB, the device has 1.0 GiB at most" in (bench.job(job_id).reason or "")


def test_a_job_that_fails_twice_at_the_same_place_is_over_and_the_rest_goes_on(bench: Bench) -> None:
    bad, good = bench.submit(), bench.submit()
    for _ in range(2):
        bench.tick()
        bench.end(bad, exit_code=ExitCode.FAILED)
    bench.tick()
    assert bench.job(bad).outcome is Outcome.FAILED
    assert bench.starting() == [good]


def test_a_running_job_that_is_cancelled_is_asked_to_stop_and_ends_cancelled(bench: Bench) -> None:
    job_id, other = bench.submit(), bench.submit()
    bench.tick()
    bench.store.cancel(job_id)
    bench.tick()
    assert bench.engine.asked_to_stop == {bench.files(job_id).folder}
    bench.end(job_id, exit_code=ExitCode.STOPPED, stop_requested=True)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.CANCELLED
    assert bench.starting() == [other]


# -- dispatchers come and go ------------------------------------------------------------------------------------


def test_a_dispatcher_that_dies_between_reservation_and_start_loses_nothing(bench: Bench) -> None:
    job_id = bench.submit()
    bench.engine.fails_to_start = True
    with pytest.raises(KeyboardInterrupt):
        bench.tick()
    assert len(bench.store.live_attempts()) == 1
    bench.engine.fails_to_start = False
    bench.new_dispatcher().tick()
    assert [one.outcome for one in bench.store.attempts(job_id)] == [Outcome.LOST, None]
    assert bench.launch(job_id).number == 2


def test_another_dispatcher_adopts_what_runs(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    append_metrics(bench.home.run_dir(job_id).metrics, metrics(1))
    bench.tick()
    append_metrics(bench.home.run_dir(job_id).metrics, metrics(2))
    bench.dispatcher = bench.new_dispatcher()
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).epoch) == (State.RUNNING, 2)
    assert len(bench.engine.launches) == 1
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.SUCCEEDED


def test_shutting_down_queues_again_what_runs(bench: Bench) -> None:
    jobs = [bench.started(), bench.started()]

    def meanwhile(_seconds: float) -> None:
        for folder in bench.engine.asked_to_stop:
            bench.engine.ended[folder] = ended(exit_code=ExitCode.STOPPED, stop_requested=True)

    bench.dispatcher.shut_down(sleep=meanwhile)
    assert [bench.job(job_id).state for job_id in jobs] == [State.QUEUED, State.QUEUED]
    assert [bench.attempt(job_id).outcome for job_id in jobs] == [Outcome.STOPPED, Outcome.STOPPED]
    assert bench.estimator.closed


def test_a_dispatcher_that_shuts_down_starts_nothing(bench: Bench) -> None:
    job_id = bench.submit()
    bench.dispatcher.shut_down(sleep=lambda _: None)
    assert bench.job(job_id).state is State.QUEUED
    assert bench.engine.launches == {}


def test_leaving_lets_attempts_go_on(bench: Bench) -> None:
    bench.started()
    bench.dispatcher.leave()
    assert bench.engine.asked_to_stop == set()
    assert bench.estimator.closed
