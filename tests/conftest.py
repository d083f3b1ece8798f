"""What the tests of the whole command line share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpuq_process import Gpuq
from small_disk import SmallDisk, mounted

from scheduler.device import has_gpu


def pytest_configure() -> None:
    """Ctrl-C reaches the processes of tests, also where the suite runs in the background of a shell that ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not has_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """A disk of 2 MiB."""
    with mounted(mebibytes=2) as disk:
        yield disk


@pytest.fixture
def gpuq(tmp_path: Path) -> Iterator[Gpuq]:
    made = Gpuq(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def shared_gpuq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuq]:
    """One state directory for the tests of a module: a worker takes seconds to start."""
    made = Gpuq(tmp_path_factory.mktemp("gpuq"))
    yield made
    made.clean_up()
