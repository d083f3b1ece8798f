import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from attempts import Run, Start
from bench import Bench, Engine
from builders import launch
from scratch import scratch_folder
from scripted import Night
from steps import Queue

from jobs.run_dir import RunDir
from scheduler.home import Home
from scheduler.store import Store
from scheduler.supervisor import Supervisor


@pytest.fixture
def home() -> Iterator[Home]:
    """An empty state directory."""
    with scratch_folder() as folder:
        yield Home(Path(folder) / "home").create()


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = Store(home.store)
    yield opened
    opened.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


@pytest.fixture
def rows(store: Store) -> Iterator[Callable[[str], list[tuple[object, ...]]]]:
    """What anybody who opens the file sees."""
    connection = sqlite3.connect(store.path)
    yield lambda query: connection.execute(query).fetchall()
    connection.close()


@pytest.fixture
def bench(home: Home, store: Store) -> Bench:
    return Bench(home, store, Engine(store))


@pytest.fixture
def prepare(tmp_path: Path) -> Start:
    """An attempt with a script in the worker's place; `import os, signal, sys, time` and `touch(name)` are there."""

    def prepare_one(script: str, isolated: bool = True) -> Run:
        files = RunDir(tmp_path / "run")
        files.path.mkdir()
        program = tmp_path / "worker.py"
        program.write_text("import os, signal, sys, time\ndef touch(name): open(name, 'w').close()\n" + dedent(script))
        worker = [sys.executable, *(["-I", "-S"] if isolated else []), str(program)]
        return Run(Supervisor(worker), files, files.attempt(1), worker)

    return prepare_one


@pytest.fixture
def start(prepare: Start) -> Iterator[Start]:
    """The same, started; nothing of it outlives the test."""
    started: list[Run] = []

    def start_one(script: str, *, isolated: bool = True, **limits: object) -> Run:
        run = prepare(script, isolated)
        started.append(run)
        run.supervisor.start(run.files, launch(**limits))  # type: ignore[arg-type]
        return run

    yield start_one
    for run in started:
        for process in run.processes():
            process.send_group(signal.SIGKILL)
        run.wait()


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    """Real dispatchers, with a script in the worker's place."""
    made = Night(Home(tmp_path / "home").create(), tmp_path / "worker.py", [])
    yield made
    made.clean_up()
