import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import Bench, Engine
from scratch import scratch_folder
from steps import Queue

from scheduler.home import Home
from scheduler.store import Store


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
