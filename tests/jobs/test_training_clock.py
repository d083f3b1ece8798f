"""The wall clock may step while a job trains: nothing times out, and no time is counted that was not trained."""

import itertools
from pathlib import Path

import pytest
from tiny import job, launch

from jobs.run_dir import ExitCode, RunDir, read_metrics
from jobs.spec import LimitsSpec
from jobs.worker import run_attempt

DAY_S = 86_400.0


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_wall_clock_that_steps_by_days_costs_no_training_time(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    stepping = itertools.count(1.7e9, step_s)
    monkeypatch.setattr("time.time", lambda: next(stepping))
    files, spec = RunDir(tmp_path), job(epochs=1, limits=LimitsSpec(time="1h"))
    files.create(spec)
    assert run_attempt(spec, files, files.attempt(1), launch(cache_dir), lambda: False) == ExitCode.SUCCEEDED
    (line,) = read_metrics(files.metrics)
    assert 0 < line.elapsed_s < 3600
