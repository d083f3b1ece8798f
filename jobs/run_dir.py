"""A run directory: every file name in it, and how files there are written.

A file is written under a temporary name in the same folder, fsynced and renamed, so that a reader, or the machine
after a power cut, finds either the old file or the new one.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from jobs.errors import GpuqError
from jobs.notice import Notice
from jobs.room import NoRoomError, is_full
from jobs.spec import JobSpec, decode, encode

Record = TypeVar("Record", bound=Struct)
LineKind = TypeVar("LineKind", bound="Line")


class ExitCode(IntEnum):
    """How a worker ends, as its parent process and the dispatcher read it."""

    SUCCEEDED = 0
    FAILED = 1  # an unexpected error: worth one more try from the checkpoint
    OUT_OF_MEMORY = 3
    REFUSED = 4  # an error that another try cannot change
    TIMED_OUT = 5  # its time limit is up, checkpoint written
    STOPPED = 75  # asked to stop, checkpoint written (sysexits.h: EX_TEMPFAIL)


class KilledFor(StrEnum):
    """Why a parent process kills its worker."""

    MEMORY = "memory"  # held more than its reservation
    GRACE = "grace"  # did not stop in time when asked
    HANG = "hang"  # likewise, asked because it showed no progress


class Launch(Struct, frozen=True, kw_only=True):
    """What the dispatcher decided for an attempt; written before its processes start."""

    number: int
    device: str  # a torch device: "cpu", "cuda:0"
    precision: str  # "bf16" or "fp32"
    reservation_bytes: int
    context_bytes: int  # the part of the reservation that is not the caching allocator's (CUDA)
    resident_limit_bytes: int | None  # of host memory; what a reservation is on the CPU device
    grace_s: float  # between asking a worker to stop and killing it
    cache_dir: str
    environment: dict[str, str]
    probe: bool = False  # train only until the memory's peak is known, alone on the device
    first_counted: int = 1  # the first attempt since a person last had the job tried again
    hang_s: float | None = None  # how long it may show no progress: see scheduler.pulse; None: for ever
    gives_back: bool = False  # what it does not need of its reservation, once it has shown its peak


class ProcessRecord(Struct, frozen=True, kw_only=True):
    """The two processes of an attempt, by their identities; written by the parent process at its start."""

    parent_pid: int
    parent_start_ticks: int
    worker_pid: int
    worker_start_ticks: int
    boot_id: str


class Progress(Struct, frozen=True, kw_only=True):
    """What a worker says once its data and network are in place and training begins, and again when it gives back."""

    parameters: int
    resumed_from_step: int
    steps: int | None = None  # of the whole training; a gpuq of schema 1 did not tell
    steps_to_peak: int | None = None  # after so many steps of this attempt it has held the most memory
    elapsed_s: float = 0.0  # training time of the earlier attempts
    reservation_bytes: int | None = None  # what it is held to since it gave back the rest; None: to all of it

    def left_of(self, reservation_bytes: int) -> int:
        """What the attempt still holds of its reservation, never more than that."""
        left = self.reservation_bytes
        return reservation_bytes if left is None else min(left, reservation_bytes)


class Failure(Struct, frozen=True, kw_only=True):
    """Why a worker ended other than well, in its own words."""

    kind: str  # the exception's type
    message: str  # one line, the type included where it says something
    requested_bytes: int | None = None  # what an allocation asked for when memory ran out
    of_device: bool = False  # the device or its driver has failed, not the job


class Peak(Struct, frozen=True, kw_only=True):
    """The most device memory a worker held, and what it knows of the parts; written when it ends on its own."""

    peak_bytes: int
    imported_bytes: int | None = None  # on the CPU: resident once everything was imported …
    loaded_bytes: int | None = None  # … and once data and network were in place
    context_bytes: int | None = None  # on CUDA: beside the caching allocator, if NVML tells …
    allocated_bytes: int | None = None  # … the most in tensors …
    reserved_bytes: int | None = None  # … and in the caching allocator


class ExitRecord(Struct, frozen=True, kw_only=True):
    """How an attempt's worker ended. Neither exit code nor signal: its processes vanished unseen."""

    started_at: str
    ended_at: str
    exit_code: int | None = None
    signal: int | None = None
    elapsed_s: float = 0.0
    resident_peak_bytes: int = 0  # of the worker, in host memory
    stop_requested: bool = False
    killed_for: KilledFor | None = None  # why the parent process killed it, if it did
    hung_s: float | None = None  # if it was asked to stop because it showed no progress: for how long


class Result(Struct, frozen=True, kw_only=True):
    """What a job that succeeded reports."""

    epochs: int  # the last one that was begun
    steps: int | None = None  # optimizer steps in all; a gpuq of schema 1 counted epochs alone
    best_epoch: int
    best_step: int | None = None  # when the validation accuracy was at its best: the weights that are kept
    best_train_accuracy: float
    best_validation_accuracy: float
    test_loss: float
    test_accuracy: float
    parameters: int
    stopped_early: bool


class Line(Struct, frozen=True, kw_only=True):
    """What is said at each evaluation, in a file of such lines."""

    epoch: int  # from 1: the one that its last step belongs to
    step: int  # optimizer steps so far


class Metrics(Line, frozen=True, kw_only=True):
    """One line of `metrics.jsonl`: the training since the line before, and an evaluation."""

    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    images_per_s: float
    elapsed_s: float  # training time of this job so far, over all attempts
    peak_bytes: int


class FlowLine(Line, frozen=True, kw_only=True):
    """One line of `gradient-flow.jsonl`: the gradients of the steps since the line before."""

    mean_absolute: dict[str, float | None]  # by weight, input to output; None: not finite


class AttemptFiles:
    """The files of one attempt, `attempts/<number>/…`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launch = folder / "launch.json"
        self.lock = folder / "lock"  # held by the parent process while it lives
        self.process = folder / "process.json"
        self.progress = folder / "progress.json"
        self.heartbeat = folder / "heartbeat"  # modified whenever training gets on
        self.notice = Notice(folder / "notice.txt")  # what the worker waits for
        self.failure = folder / "failure.json"
        self.peak = folder / "peak.json"
        self.exit = folder / "exit.json"


class RunDir:
    """The folder that holds everything of a job. Copy it, and you have the job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.submission = path / "submission.json"
        self.metrics = path / "metrics.jsonl"
        self.gradient_flow = path / "gradient-flow.jsonl"
        self.landscape = path / "landscape.json"
        self.log = path / "log.txt"
        self.result = path / "result.json"
        self.last_checkpoint = path / "checkpoints" / "last.pt"
        self.previous_checkpoint = path / "checkpoints" / "previous.pt"
        self.best_checkpoint = path / "checkpoints" / "best.pt"
        self.attempts = path / "attempts"

    def attempt(self, number: int) -> AttemptFiles:
        return AttemptFiles(self.attempts / str(number))

    def create(self, spec: JobSpec) -> None:
        """Make the folder and write the spec, whatever a power cut has left of it."""
        make_private_folder(self.path / "checkpoints")
        write_atomically(self.spec, encode(spec))

    def read_spec(self) -> JobSpec:
        return decode(self.spec.read_bytes())


def make_private_folder(path: Path) -> None:
    """A folder that only its owner may enter; so are the parents that it makes on the way."""
    if not path.is_dir():
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, mode: Literal["wb", "ab"]) -> IO[bytes]:
    """Open for writing or appending; a new file belongs to its owner alone."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if mode == "ab" else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), mode)


def write_atomically(
    path: Path, content: bytes | Callable[[IO[bytes]], Any], *, durable: bool = True, previous: Path | None = None
) -> None:
    """Replace `path` by `content`, or by what a function writes into the open file, as a whole or not at all.

    One that need not be `durable` is whole for readers, but a power cut soon after may leave nothing or garbage.
    What was there takes the place of `previous`, if that is given: a crash in between leaves it there alone.
    Raises NoRoomError, everything being as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _measured(path, content), open_private(temporary, "wb") as file:
            _write(file, content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def _write(file: IO[bytes], content: bytes | Callable[[IO[bytes]], Any]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)


@contextlib.contextmanager
def _measured(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> Iterator[None]:
    """Raises NoRoomError, with the size of the content, for what a full disk makes of writing it."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        counter = _Counter()
        _write(counter, content)
        raise NoRoomError(path.parent, counter.size) from error


class _Counter(io.BytesIO):
    """A file that keeps nothing of what is written but the size."""

    size = 0

    def write(self, content: Any) -> int:
        written = memoryview(content).nbytes
        self.size += written
        return written


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path: Path, record: Struct) -> None:
    make_private_folder(path.parent)
    write_atomically(path, msgspec.json.encode(record))


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """The record in a file; None if there is no such file. Raises GpuqError if it holds anything else."""
    with contextlib.suppress(FileNotFoundError):
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise GpuqError(f"{path}: not a {kind.__name__} record: {error}") from error
    return None


def read_whole(path: Path, kind: type[Record]) -> Record | None:
    """The record in a file; None if there is no such file, or one that is damaged or of another gpuq."""
    with contextlib.suppress(GpuqError):
        return read_record(path, kind)
    return None


def append_line(path: Path, line: Line) -> None:
    """Add a line and make it last. Raises NoRoomError, the file being as it was."""
    text = msgspec.json.encode(line) + b"\n"
    with _measured(path, text), open_private(path, "ab") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            write_all(file.fileno(), text)
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it, without the buffer in which Python keeps what finds no room, to try again when it closes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_lines(path: Path, kind: type[LineKind], after_step: int = 0) -> list[LineKind]:
    """The whole lines after a step; a line that a crash cut short does not count."""
    return [line for line in _whole_lines(path, kind) if line.step > after_step]


def read_metrics(path: Path, after_step: int = 0) -> list[Metrics]:
    return read_lines(path, Metrics, after_step)


def drop_lines_after(path: Path, kind: type[Line], step: int) -> None:
    """Forget what a resumed job is about to repeat."""
    if path.exists():
        kept = [line for line in _whole_lines(path, kind) if line.step <= step]
        write_atomically(path, b"".join(msgspec.json.encode(line) + b"\n" for line in kept))


def _whole_lines(path: Path, kind: type[LineKind]) -> Iterator[LineKind]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.decode(line, type=kind)
