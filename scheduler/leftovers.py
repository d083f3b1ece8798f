"""Processes that a worker has started and that outlived it, wherever they went: a group or session of their own even.

They are known by what they inherited: each worker has its attempt's folder in its environment. Only a process that is
started with an environment emptied on purpose is not found.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.run_dir import AttemptFiles
from scheduler.process import Identity, inheriting

_ATTEMPT = "GPUQ_ATTEMPT"
_POLL_S = 0.01
_PATIENCE_S = 2.0  # a killed process is gone in milliseconds, unless the kernel holds it up


@dataclass(frozen=True)
class Leftover:
    """A process of an attempt that is over."""

    process: Identity
    job_id: int


def mark(attempt: AttemptFiles) -> Mapping[str, str]:
    """What a worker's environment says of its attempt."""
    return {_ATTEMPT: str(attempt.folder.resolve())}


def kill(attempt: AttemptFiles) -> bool:
    """Kill every process of an attempt, its worker included, and wait for their end; whether there was one.

    Those that one of them has started meanwhile are for the next call.
    """
    mine = mark(attempt)[_ATTEMPT]
    found = [process for process, folder in inheriting(_ATTEMPT) if folder == mine]
    for process in found:
        process.send(signal.SIGKILL)
    end = time.monotonic() + _PATIENCE_S
    while any(process.is_alive() for process in found) and time.monotonic() < end:
        time.sleep(_POLL_S)
    return bool(found)


def kill_all(attempt: AttemptFiles) -> None:
    """Kill until there is none any more, or patience ends."""
    end = time.monotonic() + _PATIENCE_S
    while kill(attempt) and time.monotonic() < end:
        pass


def find(runs: Path) -> Iterator[Leftover]:
    """The processes of all attempts that are over, of the jobs whose run directories are in this folder."""
    runs = runs.resolve()
    marked = [(process, AttemptFiles(Path(folder))) for process, folder in inheriting(_ATTEMPT)]
    for process, attempt in marked:
        if attempt.folder.is_relative_to(runs) and not _is_alive(attempt) and process.is_alive():
            yield Leftover(process, int(attempt.folder.relative_to(runs).parts[0]))


def _is_alive(attempt: AttemptFiles) -> bool:
    """Whether its parent process holds its lock. Trying it takes no longer than a tick, so that nobody is misled."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(attempt.lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
