"""Who a process is, beyond its pid: pids are reused, and mean nothing after a reboot.

An identity is the pid, the start time in clock ticks since boot, and the boot's id (proc(5)).
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_START_TICKS = 19  # field 22 of /proc/PID/stat, counted after the parenthesised name
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Identity:
    """One process of one boot."""

    pid: int
    start_ticks: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        fields = _stat(self.pid)
        return (
            fields is not None
            and fields[0] != "Z"
            and int(fields[_START_TICKS]) == self.start_ticks
            and self.boot_id == boot_id()
        )

    def send(self, number: signal.Signals) -> bool:
        """Signal it if it is still itself; whether it was."""
        return self.is_alive() and _signalled(os.kill, self.pid, number)

    def send_group(self, number: signal.Signals) -> bool:
        """Signal the process group it leads if it is still itself; whether it was."""
        return self.is_alive() and _signalled(os.killpg, self.pid, number)


def identify(pid: int) -> Identity | None:
    """The identity of a running process; None if there is none with this pid."""
    fields = _stat(pid)
    return None if fields is None else Identity(pid, int(fields[_START_TICKS]), boot_id())


def own_identity() -> Identity:
    identity = identify(os.getpid())
    assert identity is not None
    return identity


def environment() -> dict[str, str]:
    """Our environment for a process that runs elsewhere: a relative PYTHONPATH goes on meaning what it does."""
    inherited = dict(os.environ)
    if path := inherited.get("PYTHONPATH"):
        inherited["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep))
    return inherited


def inheriting(variable: str) -> Iterator[tuple[Identity, str]]:
    """The processes that were started with an environment variable, or descend from one that was, with its value.

    Those of other users cannot be read, and what has ended has no environment (/proc/PID/environ).
    """
    prefix = f"{variable}=".encode()
    for pid in [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]:
        identity = identify(pid)  # before the rest: a pid reused in between is another identity's
        if identity is None:
            continue
        with contextlib.suppress(OSError):
            for entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix):
                    yield identity, os.fsdecode(entry.removeprefix(prefix))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 once it is gone (/proc/PID/statm, second field)."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@cache
def boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: the name before them may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _signalled(kill: Callable[[int, int], None], pid: int, number: signal.Signals) -> bool:
    try:
        kill(pid, number)
    except ProcessLookupError:
        return False
    return True
