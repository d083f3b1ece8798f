"""One or more jobs in a state directory, with real dispatchers and parents; in the worker's place, a script.

Each script leaves a line in `begun`, and the file `doubled` if another of its job is at work.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import IO

import msgspec
from bench import RESULT
from waiting import eventually

from jobs.run_dir import AttemptFiles, ProcessRecord, read_record
from scheduler import leftovers
from scheduler.background import running_dispatcher
from scheduler.home import Home
from scheduler.process import Identity
from scheduler.records import Attempt, Job
from scheduler.states import Outcome, State
from scheduler.store import Store

STANDING_IN = Path(__file__).with_name("standing_in.py")
JOB = '[model]\nname = "resv1"\n[resources]\nmemory = "60 MiB"\n'
PRELUDE = f"""
import fcntl, os, signal, sys, time

def touch(name):
    open(name, "w").close()

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

def succeed():
    with open("result.json", "w") as file:
        file.write({msgspec.json.encode(RESULT).decode()!r})
    sys.exit(0)

job, attempt = int(os.path.basename(sys.argv[1])), int(sys.argv[2])
alone = open("begun", "a")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    touch("doubled")
alone.write(f"{{attempt}}\\n")
alone.flush()
"""


@dataclass
class Night:
    """A state directory, and what is run over it. Its questions are about job 1."""

    home: Home
    script: Path
    running: list["subprocess.Popen[bytes]"]

    def run(self, *arguments: str, grace_s: float = 30.0, into: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
        """Start `gpuq run` with the script in the worker's place; `into` takes what it prints, instead of `output`."""
        standing_in = [sys.executable, str(STANDING_IN), str(self.script), str(grace_s)]
        command = [*standing_in, "run", "--device", "cpu", *arguments]
        environment = {**os.environ, "GPUQ_HOME": str(self.home.path)}
        with self.output.open("ab") as output:
            self.running.append(subprocess.Popen(command, env=environment, stdout=into or output, stderr=output))
        return self.running[-1]

    def begin(
        self, script: str, jobs: int = 1, grace_s: float = 30.0, into: IO[bytes] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Queue so many jobs and run them; the dispatcher."""
        self.script.write_text(PRELUDE + dedent(script))
        file = self.script.with_name("job.toml")
        file.write_text(JOB)
        return self.run(*[str(file)] * jobs, grace_s=grace_s, into=into)

    def morning(self) -> None:
        """Have another dispatcher bring the queue to its end."""
        assert self.run().wait(timeout=60) == 0, self.output.read_text()

    @property
    def output(self) -> Path:
        """What all dispatchers have printed."""
        return self.script.with_name("output.txt")

    def file(self, name: str) -> Path:
        return self.home.run_dir(1).path / name

    def dispatcher(self) -> int | None:
        """The pid of the one at its post."""
        store = Store(self.home.store)
        identity = running_dispatcher(store)
        store.close()
        return None if identity is None else identity.pid

    def wait_for(self, name: str) -> None:
        eventually(self.file(name).exists, f"the worker to write {name}")

    def attempts(self) -> list[Attempt]:
        store = Store(self.home.store)
        found = store.attempts(1)
        store.close()
        return found

    def outcomes(self) -> list[Outcome | None]:
        """Of the attempts."""
        return [attempt.outcome for attempt in self.attempts()]

    def jobs(self) -> list[Job]:
        store = Store(self.home.store)
        found = store.jobs()
        store.close()
        return found

    def state(self) -> State:
        return self.jobs()[0].state

    def attempt_files(self) -> AttemptFiles:
        return self.home.run_dir(1).attempt(1)

    def processes(self) -> tuple[Identity, Identity]:
        """Parent and worker of the first attempt."""
        record = eventually(lambda: read_record(self.attempt_files().process, ProcessRecord), "the attempt to start")
        parent = Identity(record.parent_pid, record.parent_start_ticks, record.boot_id)
        return parent, Identity(record.worker_pid, record.worker_start_ticks, record.boot_id)

    def begun(self) -> list[int]:
        """The attempts of which a worker has begun, each of them alone."""
        assert not self.file("doubled").exists()
        return [int(line) for line in self.file("begun").read_text().split()]

    def clean_up(self) -> None:
        """Leave no process behind."""
        for dispatcher in self.running:
            killed(dispatcher)
        store = Store(self.home.store)
        for attempt in store.attempts():
            leftovers.kill_all(self.home.run_dir(attempt.job_id).attempt(attempt.number))
        store.close()


def killed(dispatcher: "subprocess.Popen[bytes]") -> None:
    dispatcher.kill()
    dispatcher.wait()
