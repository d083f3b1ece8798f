"""Attempts as real processes: a parent, and small scripts in the worker's place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from waiting import eventually

from jobs.run_dir import AttemptFiles, ExitRecord, ProcessRecord, RunDir, read_record
from scheduler.process import Identity
from scheduler.supervisor import Supervisor


@dataclass
class Run:
    """An attempt and the supervisor that started it."""

    supervisor: Supervisor
    files: RunDir
    attempt: AttemptFiles
    worker: list[str]

    def file(self, name: str) -> Path:
        return self.files.path / name

    def wait(self) -> ExitRecord:
        return eventually(lambda: self.supervisor.poll(self.attempt), "the attempt to end")

    def wait_for(self, name: str) -> None:
        eventually(self.file(name).exists, f"the worker to write {name}")

    def processes(self) -> tuple[Identity, Identity]:
        """Parent and worker."""
        record = eventually(lambda: read_record(self.attempt.process, ProcessRecord), "the parent to start")
        parent = Identity(record.parent_pid, record.parent_start_ticks, record.boot_id)
        return parent, Identity(record.worker_pid, record.worker_start_ticks, record.boot_id)


Start = Callable[..., Run]
