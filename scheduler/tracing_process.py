"""The process that traces jobs, as the dispatcher holds it: its pipes, its log, and how it ends."""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scheduler.log import HEAD_BYTES, CappedLog
from scheduler.process import inheriting, resident_bytes

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20  # of a reply; and no more is read at once, however fast a process writes
_TAIL_BYTES = 500
_MARK = "GPUQ_TRACING"  # in the environment of it and all that it starts: which of our processes that is


class TracingProcess:
    """Lines in, lines out. It leads a process group, and nothing that a network starts there outlives it."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """What it prints to standard error goes to `log`, capped; a log grown by those before it starts anew."""
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > HEAD_BYTES:
                log.unlink()
        kept = CappedLog(log)
        self._mark = f"{os.getpid()} {time.monotonic_ns()}"
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", _MARK: self._mark},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._tail = b""  # of what it has printed
        # A thread, so that a network that prints need not wait for the next `read`.
        self._pump = threading.Thread(target=self._keep_log, args=(kept,), daemon=True)
        self._pump.start()
        self._rest = b""  # of a line that is not all there yet
        self._closed = False  # its end of the replies' pipe

    def write(self, line: bytes) -> None:
        """A process that has died meanwhile is no error here: `has_ended` tells."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(line + b"\n")
            self._stdin.flush()

    def read(self, timeout_s: float) -> list[bytes]:
        """The lines that have come, one too long cut to pieces; waits at most `timeout_s` for the first bytes."""
        text = self._rest
        while len(text) < _MAX_LINE_BYTES and select.select([self._stdout], [], [], timeout_s)[0]:
            read = os.read(self._stdout.fileno(), _READ_BYTES)
            if not read:
                self._closed = True
                break
            text += read
            timeout_s = 0.0
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) >= _MAX_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        return lines

    def has_ended(self) -> bool:
        """Whether it has exited, or can say nothing more. A process it has forked may hold its pipe open."""
        exited = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return self._closed or exited is not None

    def was_killed(self) -> bool:
        """Whether it has ended by a SIGKILL, which is not ours before `kill`."""
        exited = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return exited is not None and exited.si_code == os.CLD_KILLED and exited.si_status == signal.SIGKILL

    def grown_bytes(self, before_bytes: int) -> int:
        """Resident memory of it, and of each process it has started, beyond what it held before: forks share that."""
        return sum(max(0, resident_bytes(pid) - before_bytes) for pid in _group_members(self._process.pid))

    def kill(self) -> int:
        """End it, and whatever it has started; its exit code, or minus the signal that ended it."""
        if self._process.returncode is None:  # not reaped yet, so the group's id is still its own
            os.killpg(self._process.pid, signal.SIGKILL)
            for started, mark in inheriting(_MARK):
                if mark == self._mark:  # it has left the group
                    started.send(signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._pump.join(timeout=1.0)  # longer only if something has left the group and holds the pipe
        return self._process.wait()

    def last_words(self) -> str:
        """The end of the last line that it printed, once it is killed; empty if there is none."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def _keep_log(self, log: CappedLog) -> None:
        """Move what it prints into its log until there is nobody left to print."""
        assert self._process.stderr is not None
        with contextlib.closing(log), self._process.stderr as pipe:
            while text := os.read(pipe.fileno(), _READ_BYTES):
                self._tail = (self._tail + text)[-_TAIL_BYTES:]
                with contextlib.suppress(OSError):  # a full disk is no reason to fail a network that prints
                    log.write(text)


def _group_members(group: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                yield int(entry.name)
