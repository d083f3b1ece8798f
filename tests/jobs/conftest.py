from __future__ import annotations

from pathlib import Path

import pytest
import torch
from job_files import Write
from tiny import NETWORKS


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded data sets, shared by all tests of this room."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def user_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own networks, as tiny.NETWORKS defines them."""
    file = tmp_path_factory.mktemp("networks") / "networks.py"
    file.write_text(NETWORKS)
    return file


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a job file, job.toml unless told otherwise."""

    def write(text: str | bytes, name: str = "job.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
