"""A checkpoint brings back exactly what was saved, for the job that saved it, or is refused in one line."""

import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from tiny import identical
from torch import Tensor, nn

from jobs.checkpoint import Best, Position, load_checkpoint, load_weights, save_checkpoint, save_weights
from jobs.errors import CheckpointError
from jobs.optimizer import build_optimizer, update
from jobs.schedule import ScheduleState
from jobs.spec import Adam, AdamW, Cosine, JobSpec, ModelSpec, Optimizer, ResourcesSpec, Sgd, TrainSpec

SPEC = JobSpec(name="one", model=ModelSpec(name="resv1"))
OPTIMIZERS: list[Optimizer] = [Sgd(), Adam(), AdamW()]
POSITION = Position(
    schedule=ScheduleState(scale=0.3, best_loss=0.1 + 0.2, bad_evaluations=2),
    step=14,
    images=96,
    elapsed_s=12.3,
    best=Best(epoch=2, step=8, validation_accuracy=2 / 3, train_accuracy=1 / 3),
)


class Training:
    """What a checkpoint is made of, after a few steps."""

    def __init__(self, optimizer: Optimizer | None = None, steps: int = 3, width: int = 4) -> None:
        self.network = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 2))
        self.optimizer = build_optimizer(optimizer or Sgd(), self.network.parameters())
        self.totals = torch.zeros(3, dtype=torch.float64)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.network(torch.randn(8, 3)).square().sum()
        loss.backward()
        update(self.optimizer)
        self.totals += loss.detach()

    def save(self, path: Path, spec: JobSpec = SPEC, position: Position = POSITION) -> None:
        save_checkpoint(path, spec, self.network, self.optimizer, {"totals": self.totals}, position)

    def load(self, path: Path, spec: JobSpec = SPEC) -> Position:
        return load_checkpoint(path, spec, self.network, self.optimizer, {"totals": self.totals})

    def state(self) -> Any:
        return [self.network.state_dict(), self.optimizer.state_dict(), self.totals]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.pt"


@pytest.fixture
def intact(path: Path) -> bytes:
    """A checkpoint of `Training()` at `path`, as bytes."""
    Training().save(path)
    return path.read_bytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_weights_statistics_optimizer_and_totals_come_back_bit_for_bit(path: Path, optimizer: Optimizer) -> None:
    saved, loaded = Training(optimizer), Training(optimizer, steps=0)
    saved.save(path)
    loaded.load(path)
    assert identical(loaded.state(), saved.state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_training_goes_on_with_the_same_draws_and_the_same_steps(path: Path, optimizer: Optimizer) -> None:
    saved, loaded = Training(optimizer), Training(optimizer, steps=0)
    saved.save(path)
    saved.step()
    loaded.load(path)
    loaded.step()
    assert identical(loaded.state(), saved.state())


@pytest.mark.parametrize("position", [POSITION, Position()], ids=["in the middle", "at the beginning"])
def test_the_position_comes_back_exactly(path: Path, position: Position) -> None:
    training = Training()
    training.save(path, position=position)
    assert training.load(path) == position


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, name="two"),
        replace(SPEC, priority=7),
        replace(SPEC, resources=ResourcesSpec(memory="6 GiB")),
        replace(SPEC, train=TrainSpec(checkpoint_every="1h")),
    ],
    ids=["name", "priority", "declared memory", "checkpoint cadence"],
)
def test_a_job_that_trains_alike_may_go_on_from_it(path: Path, spec: JobSpec) -> None:
    training = Training()
    training.save(path, SPEC)
    assert training.load(path, spec) == POSITION


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, model=ModelSpec(name="resv1", options={"width": 8})),
        replace(SPEC, train=TrainSpec(epochs=201)),
        replace(SPEC, train=TrainSpec(seed=1)),
        replace(SPEC, optimizer=Sgd(lr=0.04)),
        replace(SPEC, schedule=Cosine()),
        replace(SPEC, resources=ResourcesSpec(threads=2)),  # another order of summation
    ],
    ids=["model", "epochs", "seed", "optimizer", "schedule", "threads"],
)
def test_a_job_that_trains_otherwise_is_refused(path: Path, spec: JobSpec) -> None:
    training = Training()
    training.save(path, SPEC)
    with pytest.raises(CheckpointError, match=r"last\.pt: belongs to another job"):
        training.load(path, spec)


def test_a_network_of_another_shape_is_refused_in_one_line(path: Path) -> None:
    Training(width=4).save(path)
    with pytest.raises(
        CheckpointError, match=r"^.*last\.pt: does not fit the network, [^\n]*: size mismatch for [^\n]*$"
    ):
        Training(width=5).load(path)


def test_weights_alone_do_not_make_a_checkpoint(path: Path) -> None:
    training = Training()
    save_weights(path, SPEC, training.network)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        training.load(path)


def test_weights_come_back_bit_for_bit(path: Path) -> None:
    saved, loaded = Training(), Training(steps=0)
    save_weights(path, SPEC, saved.network)
    load_weights(path, loaded.network)
    assert identical(loaded.network.state_dict(), saved.network.state_dict())


def test_weights_of_another_network_are_refused_in_one_line(path: Path) -> None:
    save_weights(path, SPEC, Training(width=4).network)
    with pytest.raises(
        CheckpointError, match=r"^.*last\.pt: does not fit the network, [^\n]*: size mismatch for [^\n]*$"
    ):
        load_weights(path, Training(width=5).network)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot be read: No such file"):
        Training().load(path)


def as_zip(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _intact: b"",
    "cut in the middle": lambda intact: intact[: len(intact) // 2],
    "cut by a byte": lambda intact: intact[:-1],
    "zeros": lambda intact: bytes(len(intact)),
    "not ours": lambda _intact: b"\x89PNG\r\n",
    "a pickle": lambda _intact: pickle.dumps({"format": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_refused(path: Path, intact: bytes, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(intact))
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged"):
        Training().load(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(path: Path, intact: bytes) -> None:
    chance = random.Random(0)
    before = Training(steps=0)
    path.write_bytes(intact)
    before.load(path)
    refused = 0
    for _ in range(150):
        flipped = bytearray(intact)
        flipped[chance.randrange(len(intact))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        after = Training(steps=0)
        try:
            assert after.load(path) == POSITION
        except CheckpointError:
            refused += 1
        else:
            assert identical(after.state(), before.state())
    assert refused > 50  # the rest of a small file is names and padding


def test_a_flipped_bit_of_a_weight_is_refused(path: Path, intact: bytes) -> None:
    weight = Training(steps=0).network[0].weight
    assert isinstance(weight, Tensor)
    state = torch.load(io.BytesIO(intact), weights_only=True)
    bytes_of_weight = state["network"]["0.weight"].numpy().tobytes()
    at = intact.index(bytes_of_weight)
    path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
    with pytest.raises(CheckpointError, match="damaged: a checksum does not match"):
        Training().load(path)


@pytest.mark.parametrize(
    "state", [{"format": 0}, {"network": {}}, [1, 2], 3], ids=["older", "unmarked", "list", "number"]
)
def test_a_file_of_another_version_is_refused(path: Path, state: object) -> None:
    path.parent.mkdir()
    path.write_bytes(as_zip(state))
    with pytest.raises(CheckpointError, match="another version of gpuq"):
        Training().load(path)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_loading_runs_no_code(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    path.parent.mkdir()
    path.write_bytes(as_zip({"format": 1, "network": Bomb(target)}))
    with pytest.raises(CheckpointError, match="damaged"):
        Training().load(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # the bomb was live


def test_a_crash_while_saving_keeps_the_checkpoint_before(
    path: Path, intact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_state: object, file: io.BytesIO) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="no space"):
        Training().save(path)
    assert path.read_bytes() == intact
