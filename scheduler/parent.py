"""The small process between dispatcher and worker: `python -P -m scheduler.parent RUN_DIR NUMBER WORKER…`.

It starts the worker (the command WORKER… RUN_DIR NUMBER), keeps its log, holds it to its reservation on the CPU,
passes a stop on with a grace time, stops it if it hangs, and writes how it ended: that is known even if no dispatcher
was alive at that moment. It holds the attempt's lock as long as it lives, and the kernel frees the lock however it
dies.
"""

import contextlib
import fcntl
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from jobs.room import NoRoomError, Room
from jobs.run_dir import (
    AttemptFiles,
    ExitRecord,
    KilledFor,
    Launch,
    ProcessRecord,
    Progress,
    RunDir,
    open_private,
    read_record,
    read_whole,
    write_record,
)
from jobs.units import format_duration
from jobs.worker import PARENT_PID
from scheduler import leftovers
from scheduler.clock import utc_now
from scheduler.log import CappedLog
from scheduler.process import identify, own_identity, resident_bytes
from scheduler.pulse import Pulse

POLL_S = 0.1
_READ_BYTES = 1 << 16


class Watch:
    """A worker on its way from start to exit record."""

    def __init__(self, files: RunDir, attempt: AttemptFiles, launch: Launch, worker: Sequence[str]) -> None:
        self.launch = launch
        self.attempt = attempt
        self.log = CappedLog(files.log)
        self.stop_asked_at: float | None = None
        self.killed_for: KilledFor | None = None
        self.hung_s: float | None = None
        self.started_at = utc_now()
        self.started = time.monotonic()
        self.pulse = Pulse(math.inf if launch.hang_s is None else launch.hang_s, self.started)
        signal.signal(signal.SIGTERM, self._on_stop)
        self.log.write(f"--- attempt {launch.number}, {self.started_at} ---\n".encode())
        self.worker = subprocess.Popen(
            [*worker, str(files.path), str(launch.number)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=files.path,
            env={**os.environ, **launch.environment, **leftovers.mark(attempt), PARENT_PID: str(os.getpid())},
            process_group=0,
        )

    def run(self) -> None:
        """Wait for the worker, and record how it ended."""
        is_known = self._introduce()
        while not self._has_exited():
            self._pump(POLL_S)
            self._enforce()
            is_known = is_known or self._introduce()
        self._kill_group()  # whatever the worker started and left behind …
        leftovers.kill_all(self.attempt)  # … even in groups of their own
        self._pump(0)  # a pipe holds no more than one read takes (pipe(7)), and somebody may still be writing
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nobody is left to pass it on to
        _, status, usage = os.wait4(self.worker.pid, 0)
        self.log.close()
        self._record(status, usage.ru_maxrss * 1024)

    def _introduce(self) -> bool:
        """Tell who the two processes are, unless there is no room for it: a worker has to be watched even then."""
        worker = identify(self.worker.pid)
        assert worker is not None  # not reaped yet, so it is there, if only as a zombie
        own = own_identity()
        record = ProcessRecord(
            parent_pid=own.pid,
            parent_start_ticks=own.start_ticks,
            worker_pid=worker.pid,
            worker_start_ticks=worker.start_ticks,
            boot_id=worker.boot_id,
        )
        with contextlib.suppress(NoRoomError):
            write_record(self.attempt.process, record)
            return True
        return False

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        """A person or the dispatcher wants the worker to checkpoint and end."""
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        if self.stop_asked_at is None:
            self.stop_asked_at = time.monotonic()
            os.kill(self.worker.pid, signal.SIGTERM)

    def _enforce(self) -> None:
        """Kill a worker that outgrew its reservation, or its grace time; ask one that hangs to stop."""
        limit = self._limit_bytes()
        if limit is not None and resident_bytes(self.worker.pid) > limit:
            self._kill(KilledFor.MEMORY)
        asked = self.stop_asked_at
        if asked is None:
            self._check_progress()
        elif time.monotonic() - asked > self.launch.grace_s:
            self._kill(KilledFor.GRACE if self.hung_s is None else KilledFor.HANG)

    def _limit_bytes(self) -> int | None:
        """What the worker is held to; looked up each time, so that what it says to have given back counts at once."""
        limit = self.launch.resident_limit_bytes
        if limit is None:
            return None
        progress = read_whole(self.attempt.progress, Progress)
        return limit if progress is None else progress.left_of(limit)

    def _check_progress(self) -> None:
        """Ask a worker that hangs to stop. Sleep of the machine is no time on Linux's monotonic clock."""
        self.pulse.observe(_modified(self.attempt.heartbeat), time.monotonic())
        self.hung_s = self.pulse.hung_s
        if self.hung_s is not None:
            self.log.write(f"--- no progress for {format_duration(self.hung_s)}: asked to stop ---\n".encode())
            self._ask_to_stop()

    def _kill(self, why: KilledFor) -> None:
        self.killed_for = self.killed_for or why
        self._kill_group()

    def _kill_group(self) -> None:
        """The worker is not reaped before the end, so that its group's id cannot be another's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)

    def _has_exited(self) -> bool:
        return os.waitid(os.P_PID, self.worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _pump(self, timeout_s: float) -> bool:
        """Move what the worker printed into the log; whether there was any."""
        pipe = self.worker.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], timeout_s)[0]:
            return False
        text = os.read(pipe.fileno(), _READ_BYTES)
        if not text:  # closed, perhaps before the worker ends: do not spin on it
            time.sleep(timeout_s)
            return False
        self.log.write(text)
        return True

    def _record(self, status: int, resident_peak_bytes: int) -> None:
        """The attempt is not over before this is written, and waits for room as long as it takes."""
        code = os.waitstatus_to_exitcode(status)
        Room(self.attempt.notice, should_stop=lambda: False)(
            write_record,
            self.attempt.exit,
            ExitRecord(
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                started_at=self.started_at,
                ended_at=utc_now(),
                elapsed_s=time.monotonic() - self.started,
                resident_peak_bytes=resident_peak_bytes,
                stop_requested=self.stop_asked_at is not None,
                killed_for=self.killed_for,
                hung_s=self.hung_s,
            ),
        )


def _modified(path: Path) -> int | None:
    """When a file was last modified, in no particular unit; None if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def main(run_dir: str, number: str, *worker: str) -> None:
    files = RunDir(Path(run_dir))
    attempt = files.attempt(int(number))
    with open_private(attempt.lock, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if attempt.exit.exists():
            return  # a dispatcher found this attempt without processes and gave it up
        launch = read_record(attempt.launch, Launch)
        assert launch is not None  # written before this process was started
        Watch(files, attempt, launch, worker).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
