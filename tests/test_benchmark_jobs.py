"""The jobs that the benchmarks of memory draw: a single bad one would end the whole benchmark."""

import importlib
import sys
from pathlib import Path

import pytest

from jobs.job_file import read_job_files

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_configuration_drawn_for_a_gpu_is_a_job_that_can_be_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    configurations = importlib.import_module("configurations")
    monkeypatch.delitem(sys.modules, "configurations")
    images = configurations.make_images(tmp_path / "images")
    files = [one.write(tmp_path) for one in configurations.draw(12, 1, "cuda", images)]
    assert [spec.name for _, spec in read_job_files(files)] == [file.stem for file in files]
