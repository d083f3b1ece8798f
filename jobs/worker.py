"""The process that trains one attempt: `python -P -m jobs.worker RUN_DIR NUMBER`.

It ends with an ExitCode and leaves its reasons in the attempt's files. Its log is its standard output and error.
"""

import contextlib
import ctypes
import importlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from jobs.errors import UNDERSTOOD, GpuqError, in_words
from jobs.heartbeat import Heartbeat
from jobs.resident import resident_bytes, worker_modules
from jobs.room import Room, StopRequested
from jobs.run_dir import (
    AttemptFiles,
    ExitCode,
    Failure,
    Launch,
    Peak,
    Progress,
    RunDir,
    read_record,
    read_whole,
    write_record,
)
from jobs.spec import JobSpec

if TYPE_CHECKING:
    import torch

PARENT_PID = "GPUQ_PARENT_PID"  # in a worker's environment: its parent process

_PR_SET_PDEATHSIG = 1  # prctl(2)


class StopFlag:
    """SIGTERM as a question the training loop asks between steps."""

    def __init__(self) -> None:
        self.raised = False
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        self.raised = True

    def __call__(self) -> bool:
        return self.raised


def main(run_dir: str, number: str) -> int:
    """Train the attempt; returns the exit code."""
    should_stop = StopFlag()
    die_with_parent(int(os.environ.get(PARENT_PID, os.getppid())))
    files = RunDir(Path(run_dir))
    attempt = files.attempt(int(number))
    launch = read_record(attempt.launch, Launch)
    if launch is None:
        raise GpuqError(f"{attempt.launch}: missing; an attempt is started by the dispatcher")
    return run_attempt(files.read_spec(), files, attempt, launch, should_stop)


def run_attempt(
    spec: JobSpec, files: RunDir, attempt: AttemptFiles, launch: Launch, should_stop: Callable[[], bool]
) -> int:
    """Train, and turn every way that training can end into an exit code and the attempt's files."""
    import torch

    from jobs.memory import cap_memory, parts, peak_bytes
    from jobs.train import Surroundings, Trainer

    device = torch.device(launch.device)
    torch.set_num_threads(spec.resources.threads)
    imported_bytes = loaded_bytes = None
    heartbeat = Heartbeat(attempt.heartbeat)
    room = Room(attempt.notice, should_stop, heartbeat)
    try:
        cap_memory(device, launch.reservation_bytes, launch.context_bytes)
        for module in worker_modules(spec):
            importlib.import_module(module)
        imported_bytes = resident_bytes()
        around = Surroundings(
            device=device,
            precision=launch.precision,
            files=files,
            attempt=attempt,
            cache_dir=Path(launch.cache_dir),
            context_bytes=launch.context_bytes,
            should_stop=_at_its_peak(spec, device, should_stop) if launch.probe else should_stop,
            room=room,
            counted_from_s=_counted_from_s(files, range(launch.first_counted, launch.number)),
            reservation_bytes=launch.reservation_bytes if launch.gives_back else None,
            on_progress=heartbeat,
        )
        trainer = Trainer(spec, around)
        loaded_bytes = resident_bytes()
        room(write_record, files.result, trainer.run())
        return ExitCode.SUCCEEDED
    except BaseException as error:  # a network may raise anything: SystemExit, KeyboardInterrupt
        return _explained(error, attempt, room)
    finally:
        known = parts(device, imported_bytes, loaded_bytes)
        peak = Peak(peak_bytes=peak_bytes(device, launch.context_bytes), **known)
        with contextlib.suppress(StopRequested):
            room(write_record, attempt.peak, peak)


def _explained(error: BaseException, attempt: AttemptFiles, room: Room) -> ExitCode:
    """How training ends by an exception; the reason is left in the attempt's files.

    Asked to stop while there is no room for it, it is merely stopped: the next attempt comes to the same end.
    """
    from jobs.memory import is_device_failure, is_out_of_memory, requested_bytes
    from jobs.train import TimeUp

    if isinstance(error, StopRequested):
        return ExitCode.STOPPED
    time_is_up = isinstance(error, TimeUp)
    if not time_is_up:
        with contextlib.suppress(Exception):  # a network may have closed or replaced standard error
            traceback.print_exception(error)
    message = str(error) if time_is_up else in_words(error)
    failure = Failure(
        kind=type(error).__name__,
        message=message,
        requested_bytes=requested_bytes(error),
        of_device=is_device_failure(error),
    )
    try:
        room(write_record, attempt.failure, failure)
    except StopRequested:
        return ExitCode.STOPPED
    if time_is_up:
        return ExitCode.TIMED_OUT
    if is_out_of_memory(error):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.REFUSED if isinstance(error, UNDERSTOOD) else ExitCode.FAILED


def _counted_from_s(files: RunDir, earlier: Iterable[int]) -> float | None:
    """The training time before the first of the earlier attempts that began to train; None if none did."""
    begun = (read_whole(files.attempt(number).progress, Progress) for number in earlier)
    return next((progress.elapsed_s for progress in begun if progress is not None), None)


def _at_its_peak(spec: JobSpec, device: "torch.device", should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Stop also once training has held the most memory that it will; asked before every step."""
    from jobs.step import steps_to_peak

    steps = itertools.count()
    enough = steps_to_peak(spec.data.chunk_size, spec.train.batch_size, device)
    return lambda: should_stop() or next(steps) >= enough


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent process dies: nobody would record how it ends.

    `parent` is its pid, for a process that may have lost it already.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End this process without what Python does first: nothing but what was printed is left to be written, and while
    torch is taken apart some 100 MiB of its libraries become resident that no training needed.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a network may have closed or replaced it
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # what libraries have printed
    os._exit(code)


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
