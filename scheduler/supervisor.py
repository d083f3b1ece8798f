"""The processes of attempts: start, poll, stop. A seam: another engine could offer the same verbs.

An attempt is alive as long as its parent process holds the lock in the attempt's folder, whichever dispatcher started
it; so there is nothing to do to adopt one.
"""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.run_dir import (
    AttemptFiles,
    ExitRecord,
    Launch,
    ProcessRecord,
    RunDir,
    make_private_folder,
    open_private,
    read_whole,
    write_record,
)
from scheduler import leftovers
from scheduler.clock import utc_now
from scheduler.process import Identity, environment

WORKER = (sys.executable, "-P", "-m", "jobs.worker")


class Supervisor:
    """Starts attempts, and watches these and those that an earlier dispatcher started."""

    def __init__(self, worker: Sequence[str] = WORKER) -> None:
        """`worker` is the command that trains an attempt; it is given the run directory and the attempt's number."""
        self._worker = worker
        self._children: dict[Path, subprocess.Popen[bytes]] = {}  # parent processes started here, by attempt

    def start(self, files: RunDir, launch: Launch) -> None:
        """Start an attempt's parent process in a session of its own: it outlives the dispatcher and the terminal."""
        attempt = files.attempt(launch.number)
        write_record(attempt.launch, launch)
        attempt.notice.reserve()
        with open_private(files.log, "ab") as log:
            self._children[attempt.folder] = subprocess.Popen(
                [sys.executable, "-P", "-m", "scheduler.parent", str(files.path), str(launch.number), *self._worker],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=files.path,
                env=environment(),
                start_new_session=True,
            )

    def poll(self, attempt: AttemptFiles) -> ExitRecord | None:
        """How an attempt ended; None while it goes on.

        One whose processes vanished gets a record with neither exit code nor signal, so that a parent process that
        was merely slow to start finds it and leaves.
        """
        child = self._children.get(attempt.folder)
        if child is not None and child.poll() is None:
            return None
        if (record := read_whole(attempt.exit, ExitRecord)) is None:
            record = self._give_up(attempt)
        if record is not None:
            self._children.pop(attempt.folder, None)
        return record

    def stop(self, attempt: AttemptFiles) -> None:
        """Ask for a checkpoint and an end. To be repeated until it ends: before its start there is nobody to ask."""
        processes = read_whole(attempt.process, ProcessRecord)
        if processes is not None:
            parent = Identity(processes.parent_pid, processes.parent_start_ticks, processes.boot_id)
            parent.send(signal.SIGTERM)

    def worker_pid(self, attempt: AttemptFiles) -> int | None:
        processes = read_whole(attempt.process, ProcessRecord)
        return None if processes is None else processes.worker_pid

    def _give_up(self, attempt: AttemptFiles) -> ExitRecord | None:
        """Write the record that nobody wrote; None if the attempt turns out to be alive after all."""
        make_private_folder(attempt.folder)
        with open_private(attempt.lock, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if (record := read_whole(attempt.exit, ExitRecord)) is not None:
                return record
            if self._still_dying(attempt):
                return None
            now = utc_now()
            record = ExitRecord(started_at=now, ended_at=now)
            write_record(attempt.exit, record)
            return record

    @staticmethod
    def _still_dying(attempt: AttemptFiles) -> bool:
        """The kernel kills a worker whose parent process died, but nothing that the worker has started. Until all of it
        is gone, the job must not start again.
        """
        processes = read_whole(attempt.process, ProcessRecord)
        worker = None
        if processes is not None:
            worker = Identity(processes.worker_pid, processes.worker_start_ticks, processes.boot_id)
        in_its_group = worker is not None and worker.send_group(signal.SIGKILL)
        return leftovers.kill(attempt) or in_its_group
