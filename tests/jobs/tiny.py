"""Jobs that train in a fraction of a second: 160 images in four batches, and networks of a user's own file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from jobs.room import Room
from jobs.run_dir import Launch, Metrics, Result, RunDir, read_metrics
from jobs.spec import Constant, DataSpec, JobSpec, ModelSpec, TrainSpec
from jobs.train import Surroundings, Trainer

IMAGES, BATCH = 200, 48
STEPS = 4  # of an epoch: 160 training images, the last batch is smaller
CHUNK = 96  # two batches, so that an epoch has two chunks and can be left in the middle of one
VALIDATION_BATCHES = TEST_BATCHES = 1
MEASURED = {"images_per_s", "elapsed_s", "peak_bytes"}  # what no two runs share

NETWORKS = '''
import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from torch import nn


def small(classes, channels):
    """With all that a checkpoint must bring back: weights, running statistics, and draws from a generator."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(4 * 8 * 8, classes),
    )


class Counting(nn.Module):
    """Counts its passes in training, in a buffer, which checkpoints keep, and in this process; and in evaluation."""

    def __init__(self, classes, channels):
        super().__init__()
        self.network = small(classes, channels)
        self.register_buffer("trained", torch.tensor(0))
        self.passes = self.evaluated = 0

    def forward(self, images):
        if self.training:
            self.trained += 1
            self.passes += 1
            self.on_step(self.passes)
        else:
            self.evaluated += 1
        return self.logits(self.network(images))

    def on_step(self, number):
        pass

    def logits(self, logits):
        return logits


class Wobbling(Counting):
    """Unlearns after `steps` steps."""

    def __init__(self, classes, channels, steps):
        super().__init__(classes, channels)
        self.steps = steps

    def logits(self, logits):
        return logits if self.trained <= self.steps else -logits


class Diverging(Counting):
    """Its logits are not numbers at training step `step`, or, without one, whenever it is evaluated."""

    def __init__(self, classes, channels, step=None):
        super().__init__(classes, channels)
        self.step = step

    def logits(self, logits):
        broken = self.trained == self.step if self.training else self.step is None
        return logits * float("nan") if broken else logits


class Stubborn(nn.Module):
    """Learns nothing: its logits are always the same."""

    def __init__(self, classes, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, images):
        return 0 * self.bias.expand(len(images), -1)


def lingering(classes, channels):
    """Leaves a thread behind that never ends, and prints, as Python and as a library in C do."""
    threading.Thread(target=threading.Event().wait).start()
    sys.stdout.write("a thread waits")
    ctypes.CDLL(None).printf(b"a library prints")
    return small(classes, channels)


ERRORS = {
    "RuntimeError": RuntimeError("first line\\nsecond line"),
    "MemoryError": MemoryError(),
    "OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "allocator": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    "device": RuntimeError("CUDA error: unknown error"),
    "SystemExit": SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt("mine"),
}


class Raising(Counting):
    """Raises one of ERRORS at training step `step`."""

    def __init__(self, classes, channels, error, step=1):
        super().__init__(classes, channels)
        self.error, self.step = error, step

    def on_step(self, number):
        if number == self.step:
            raise ERRORS[self.error]


class Interrupted(Counting):
    """Has its own process asked to stop at training step `step`, once: then `marker` is there."""

    def __init__(self, classes, channels, step, marker):
        super().__init__(classes, channels)
        self.step, self.marker = step, Path(marker)

    def on_step(self, number):
        if number == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)


def unbuildable(classes, channels):
    raise ValueError("no such thing")


def printing(classes, channels):
    print("built")

    class Printing(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small(classes, channels)

        def forward(self, images):
            print("forward", flush=True)
            os.write(1, b"and below Python\\n")
            return self.network(images)

    return Printing()


def maps(classes, channels):
    """Returns a map for each class, where one number is wanted."""
    return nn.Conv2d(channels, classes, 3)


def peeking(classes, channels):
    """Goes one way or another by what its images show."""
    class Peeking(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small(classes, channels)

        def forward(self, images):
            return self.network(images if images.mean().item() > 0 else -images)

    return Peeking()
'''


def job(model: str = "baseline-130k", options: dict[str, Any] | None = None, **changes: Any) -> JobSpec:
    """A job over a few shapes; `changes` are fields of its train, data or, by their own names, of the spec."""
    train = {name: changes.pop(name) for name in TrainSpec.__struct_fields__ if name in changes}
    data = {name: changes.pop(name) for name in ("augment", "chunk_size", "limit", "split") if name in changes}
    defaults: dict[str, Any] = {
        "name": "tiny",
        "model": ModelSpec(name=model, options=options if options is not None else {"width": 4}),
        "data": DataSpec(name="shapes", **{"limit": IMAGES, "augment": "none", "chunk_size": CHUNK, **data}),
        "train": TrainSpec(**{**({} if "iterations" in train else {"epochs": 3}), "batch_size": BATCH, **train}),
        "schedule": Constant(),
    }
    return JobSpec(**(defaults | changes))


def user_job(file: Path, function: str, **changes: Any) -> JobSpec:
    """A job whose network is a function of tiny.NETWORKS."""
    return job(f"{file}:{function}", changes.pop("options", {}), **changes)


def trainer(
    spec: JobSpec, run_dir: Path, cache_dir: Path, should_stop: Callable[[], bool] = lambda: False, **others: Any
) -> Trainer:
    """A trainer on the CPU; `others` are of its surroundings. Its clock advances by a second whenever it is asked."""
    files = RunDir(run_dir)
    files.create(spec)
    ticks: Iterator[int] = itertools.count()
    values = {"clock": lambda: float(next(ticks)), "room": Room(files.attempt(1).notice, should_stop), **others}
    around = Surroundings(
        device=torch.device("cpu"),
        precision="fp32",
        files=files,
        attempt=files.attempt(1),
        cache_dir=cache_dir,
        context_bytes=0,
        should_stop=should_stop,
        **values,
    )
    return Trainer(spec, around)


def train(spec: JobSpec, run_dir: Path, cache_dir: Path) -> Result:
    return trainer(spec, run_dir, cache_dir).run()


def after(steps: int) -> Callable[[], bool]:
    """A wish to stop that comes once so many steps were trained."""
    asked = itertools.count()
    return lambda: next(asked) >= steps


def launch(cache_dir: Path) -> Launch:
    return Launch(
        number=1,
        device="cpu",
        precision="fp32",
        reservation_bytes=1 << 30,
        context_bytes=0,
        resident_limit_bytes=None,
        grace_s=10.0,
        cache_dir=str(cache_dir),
        environment={},
    )


def learned(files: RunDir) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what is measured by the clock."""
    fields = [name for name in Metrics.__struct_fields__ if name not in MEASURED]
    return [{name: getattr(line, name) for name in fields} for line in read_metrics(files.metrics)]


def saved(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without the clock's time."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if "position" in state:
        state["position"] = {**state["position"], "elapsed_s": None}
    return state


def identical(one: Any, other: Any) -> bool:
    """Whether two trees of dicts, lists, tensors and values are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(identical(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return bool(one == other)


class Killed(BaseException):
    """Ends training as SIGKILL does: nothing more is written."""


def killing(steps: int) -> Callable[[], bool]:
    wish = after(steps)

    def should_stop() -> bool:
        if wish():
            raise Killed
        return False

    return should_stop


def job_with(spec: JobSpec, **changes: Any) -> JobSpec:
    return replace(spec, train=replace(spec.train, **changes))


def assert_same(files: RunDir, reference: RunDir) -> None:
    """Metrics, weights, optimizer, generators and position, bit for bit."""
    assert learned(files) == learned(reference)
    assert identical(saved(files.last_checkpoint), saved(reference.last_checkpoint))
    assert identical(saved(files.best_checkpoint), saved(reference.best_checkpoint))
