"""A dispatcher on a bench: the real store and files; processes, tracing and the device are moved by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builders import ORIGIN, GiB, ended, metrics, spec
from msgspec.structs import replace

from jobs.run_dir import (
    AttemptFiles,
    ExitCode,
    ExitRecord,
    Launch,
    Progress,
    Result,
    RunDir,
    append_line,
    read_whole,
    write_record,
)
from jobs.spec import JobSpec
from jobs.trace_messages import Reply
from scheduler.device import CpuDevice, Snapshot
from scheduler.dispatcher import Dispatcher
from scheduler.errors import DeviceUnreadableError
from scheduler.home import Home
from scheduler.records import Attempt, Job
from scheduler.states import State
from scheduler.store import Store
from scheduler.tracing import Failed

RESULT = Result(
    epochs=10,
    best_epoch=9,
    steps=1000,
    best_step=900,
    best_train_accuracy=0.99,
    best_validation_accuracy=0.91,
    test_loss=0.4,
    test_accuracy=0.9,
    parameters=1000,
    stopped_early=False,
)


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
        write_record(files.attempt(launch.number).launch, launch)
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
        self.most_bytes: dict[int, int | None] = {}
        self.answers: dict[int, Reply | Failed] = {}
        self.closed = False

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self.asked)

    def ask(self, key: int, spec: JobSpec, *, prepare: bool, most_bytes: int | None) -> None:
        assert prepare
        self.asked[key] = spec
        self.most_bytes[key] = most_bytes

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
        write_record(self.files(job_id).progress, Progress(parameters=1000, resumed_from_step=step, steps=1000))

    def give_back(self, job_id: int, left_bytes: int) -> None:
        """The worker, which has begun, is held to less from now on, and says so."""
        progress = read_whole(self.files(job_id).progress, Progress)
        assert progress is not None
        write_record(self.files(job_id).progress, replace(progress, reservation_bytes=left_bytes))

    def end(self, job_id: int, **record: object) -> None:
        """Let the attempt end so; a worker that succeeds has begun, was evaluated, and left its result before."""
        if record.get("exit_code") == ExitCode.SUCCEEDED:
            files = self.home.run_dir(job_id)
            if not self.files(job_id).progress.exists():
                self.begin(job_id)
            if not files.metrics.exists():
                append_line(files.metrics, metrics(1, peak_bytes=0))
            write_record(files.result, RESULT)
        self.engine.ended[self.files(job_id).folder] = ended(**record)

    def starting(self) -> list[int]:
        return [job.id for job in self.store.jobs() if job.state is State.STARTING]
