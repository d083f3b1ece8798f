"""`gpuq` as a real process in a state directory of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from scheduler.background import running_dispatcher, stop_dispatcher
from scheduler.cli import main
from scheduler.home import Home
from scheduler.store import Store

GPUQ = [sys.executable, "-P", "-m", "scheduler.cli"]
POLL_S = 0.05


def eventually(condition: Callable[[], bool], what: str, deadline_s: float = 120.0) -> None:
    """Poll until the condition holds; fail naming it when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(POLL_S)


class Gpuq:
    """The command line over one state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.environment = {**os.environ, "GPUQ_HOME": str(self.home.path)}

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*GPUQ, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def here(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The same in this process: for what a command says and does, where its start and its end show nothing."""
        words = [str(argument) for argument in arguments]
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.environment),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as leaving,
        ):
            main(words)
        return subprocess.CompletedProcess(words, int(leaving.value.code or 0), out.getvalue(), err.getvalue())

    def spawn(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            [*GPUQ, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        return file

    def job(self, job_id: int) -> dict[str, Any]:
        """What `gpuq status ID --json` says of a job."""
        told: dict[str, Any] = json.loads(self.here("status", str(job_id), "--json").stdout)["jobs"][0]
        return told

    def dispatcher(self) -> int | None:
        """The pid of the dispatcher that runs, if one does."""
        pid: int | None = json.loads(self.here("status", "--json").stdout)["dispatcher"]["pid"]
        return pid

    def becomes(self, job_id: int, word: str) -> None:
        """Wait until a job is in a state or has an outcome."""
        eventually(lambda: word in (self.job(job_id)["state"], self.job(job_id)["outcome"]), f"job {job_id} is {word}")

    def clean_up(self) -> None:
        """Leave no process behind."""
        if self.home.store.exists():
            store = Store(self.home.store)
            for job in store.jobs():
                store.cancel(job.id)
            dispatcher = running_dispatcher(store)
            if dispatcher is None and store.live_attempts():
                self("start")
                eventually(lambda: running_dispatcher(store) is not None, "a dispatcher runs")
                dispatcher = running_dispatcher(store)
            if dispatcher is not None:
                stop_dispatcher(dispatcher)


class GpuqHere(Gpuq):
    """With every command in this process."""

    __call__ = Gpuq.here
