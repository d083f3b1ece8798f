import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from night import Night, Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote(["commands", "one_file"])
    yield started
    started.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is a place for that: a crash of a process loses nothing that was written."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="gpuq-test-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def night(folder: Path, zygote: Zygote) -> Night:
    return Night(folder, zygote)
