"""SIGKILL of a training worker at each of its writes: it goes on from its checkpoint to the same numbers, bit for bit.

All points: `pytest tests/crashes -m "slow or not slow"`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crash_point import CrashPoint
from crash_table import TRAINING, place, some_now_all_when_slow
from night import KILLED, Night, Zygote

from jobs.diagnostics.landscape import Landscape
from jobs.run_dir import FlowLine, Metrics, Result, RunDir, read_lines, read_record

MEASURED = {"images_per_s", "elapsed_s", "peak_bytes"}  # what no two runs share
NETWORK = """
from torch import nn

def build(classes, channels):
    convolution = nn.Conv2d(channels, 4, 3, stride=4)
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 8 * 8, classes))
"""
JOB = """
[model]
name = "network.py:build"
[data]
name = "shapes"
limit = 200
augment = "easy"
[train]
epochs = 3
batch_size = 48
checkpoint_every = "1 epoch"
[schedule]
warmup_epochs = 1
[diagnostics]
gradient_flow = true
landscape = true
landscape_grid = 3
landscape_images = 16
"""

Train = Callable[..., int]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file, and a cache of the data it trains on."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "network.py").write_text(NETWORK)
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def torch_zygote() -> Iterator[Zygote]:
    started = Zygote(["training"])
    yield started
    started.close()


def train(night: Night, study: Path, attempt: int, crash: CrashPoint | None = None) -> int:
    files = (str(study / "job.toml"), str(night.folder / "run"))
    return night.call("training:attempt", *files, str(attempt), str(study / "cache"), crash=crash)


@pytest.fixture(scope="module")
def undisturbed(study: Path, torch_zygote: Zygote) -> dict[str, Any]:
    night = Night(study, torch_zygote)
    assert train(night, study, 1) == 0, night.said()
    return outcome(RunDir(study / "run"))


@pytest.fixture
def night(folder: Path, torch_zygote: Zygote) -> Night:
    return Night(folder, torch_zygote)


def outcome(files: RunDir) -> dict[str, Any]:
    """What was learned: all that is written, but for what is measured by the clock."""
    landscape = read_record(files.landscape, Landscape)
    assert landscape is not None
    lines = [msgspec.to_builtins(line) for line in read_lines(files.metrics, Metrics)]
    return {
        "metrics": [{name: line[name] for name in line if name not in MEASURED} for line in lines],
        "gradient flow": read_lines(files.gradient_flow, FlowLine),
        "landscape": (landscape.loss, landscape.losses),
        "result": read_record(files.result, Result),
    }


def test_the_undisturbed_training_learns_something(undisturbed: dict[str, Any]) -> None:
    assert [line["epoch"] for line in undisturbed["metrics"]] == [1, 2, 3]
    assert len({line["train_loss"] for line in undisturbed["metrics"]}) == 3


@pytest.mark.parametrize("point", some_now_all_when_slow(TRAINING, every=2))
def test_the_next_attempt_ends_with_the_same_numbers(
    night: Night, study: Path, undisturbed: dict[str, Any], point: CrashPoint
) -> None:
    point = CrashPoint(place(str(point.place)), point.when, TRAINING[str(point.place)])
    assert train(night, study, 1, point) == KILLED, night.said()
    assert train(night, study, 2) == 0, night.said()
    assert outcome(RunDir(night.folder / "run")) == undisturbed
