"""A night that goes wrong at a chosen point, and the morning after it: real processes over a state directory."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crash_point import CrashPoint

from jobs.run_dir import RunDir, read_metrics
from scheduler.cleaning import leftovers
from scheduler.home import Home
from scheduler.records import Attempt, Job
from scheduler.states import Outcome
from scheduler.store import Store

HERE = Path(__file__).parent
KILLED = -9

SMALL = '[model]\nname = "resv1"\n[resources]\nmemory = "60 MiB"\n'
TOO_LARGE = SMALL.replace("60 MiB", "900 TiB")
BUDGET = "100MiB"  # for one small job at a time


class Zygote:
    """Starts processes in milliseconds: they are forked from one that has imported all they need."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py"), *imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear()

    def run(self, call: str, arguments: Sequence[str], **surroundings: Any) -> int:
        """Call `module:function` in a process of its own; its exit code, or minus the signal that ended it."""
        request = {"call": call, "arguments": arguments, **surroundings}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._hear())

    def close(self) -> None:
        self._process.communicate()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Night:
    """A state directory, commands over it that may crash, and what is left in the end."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self._crashes = 0
        self.output = folder / "output.txt"
        self._zygote = zygote

    def gpuq(self, *arguments: str, crash: CrashPoint | None = None, **environment: str) -> int:
        """Run a command to its end; its exit code."""
        return self.call("commands:gpuq", *arguments, crash=crash, **environment)

    def call(self, function: str, *arguments: str, crash: CrashPoint | None = None, **environment: str) -> int:
        environment |= {"GPUQ_HOME": str(self.home.path), "PYTHONPATH": str(HERE)}
        if crash is not None:
            self._crashes += 1
            environment |= crash.environment(self._mark())
        return self._zygote.run(
            function,
            arguments,
            environment=environment,
            folder=str(self.folder),
            output=str(self.output),
        )

    def write(self, *texts: str) -> list[str]:
        """Job files, job0.toml and so on."""
        files = [f"job{number}.toml" for number, _ in enumerate(texts)]
        for name, text in zip(files, texts, strict=True):
            (self.folder / name).write_text(text)
        return files

    def submit(self, *texts: str) -> None:
        assert self.gpuq("submit", "--no-start", *self.write(*texts)) == 0, self.said()

    def run(self, crash: CrashPoint | None = None) -> int:
        """Dispatch until there is nothing left to do."""
        return self.gpuq("run", "--device", "cpu", "--memory", BUDGET, crash=crash)

    def has_crashed(self) -> bool:
        """Whether the last crash that was asked for has happened."""
        return self._mark().exists()

    def _mark(self) -> Path:
        return self.folder / f"crash{self._crashes}"

    def said(self) -> str:
        return self.output.read_text()

    def jobs(self) -> list[Job]:
        with contextlib.closing(Store(self.home.store)) as store:
            store.check()
            return store.jobs()

    # -- what must hold in the morning

    def assert_in_order(self, *outcomes: Outcome, workers_died: bool = False) -> None:
        """Each job has ended, once, with this outcome; its metrics and result are those of an undisturbed night.

        Unless workers died, too, no attempt is lost that had begun.
        """
        assert "Traceback" not in self.said() + self.home.dispatcher_log.read_text(), self.said()
        jobs = self.jobs()
        assert [job.outcome for job in jobs] == list(outcomes), [job.reason for job in jobs]
        with contextlib.closing(Store(self.home.store)) as store:
            assert not store.live_attempts()
            for job in jobs:
                self._assert_ended_once(store, job)
                self._assert_attempts(store.attempts(job.id), self.home.run_dir(job.id), workers_died)
        unfinished = set(self.home.path.rglob(".*"))
        assert unfinished == set(leftovers(self.home)), "files that nobody will ever remove"

    def _assert_ended_once(self, store: Store, job: Job) -> None:
        kinds = [row["kind"] for row in store._db.execute("SELECT kind FROM events WHERE job_id = ?", (job.id,))]
        assert (kinds.count("submitted"), kinds.count("finished"), kinds[-1]) == (1, 1, "finished"), kinds
        if job.outcome is Outcome.SUCCEEDED:
            lines = read_metrics(self.home.run_dir(job.id).metrics)
            assert [line.step for line in lines] == [1, 2, 3]
            rows = store._db.execute("SELECT step, train_loss FROM metrics WHERE job_id = ? ORDER BY step", (job.id,))
            assert [tuple(row) for row in rows] == [(line.step, line.train_loss) for line in lines]
            assert (job.step, job.test_accuracy) == (3, 0.75)

    def _assert_attempts(self, attempts: Sequence[Attempt], files: RunDir, workers_died: bool) -> None:
        """At most one was lost, and no two trained at once."""
        if not attempts:
            return
        assert [one.number for one in attempts] == list(range(1, len(attempts) + 1))
        *lost, last = (one.outcome for one in attempts)
        assert (lost, last) in (([], Outcome.SUCCEEDED), ([Outcome.LOST], Outcome.SUCCEEDED))
        assert not (files.path / "two at once").exists()
        began = (files.path / "began.txt").read_text().split()
        assert workers_died or began == [str(len(attempts))]
