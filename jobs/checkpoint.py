"""Everything a job needs to go on as if it had never stopped.

A checkpoint holds tensors and plain values only and is read with `weights_only=True`: nothing in it can run code.
"""

import errno
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from jobs.errors import CheckpointError, DamagedCheckpointError
from jobs.memory import is_out_of_memory
from jobs.run_dir import RunDir, make_private_folder, write_atomically
from jobs.schedule import ScheduleState
from jobs.spec import DiagnosticsSpec, JobSpec, LimitsSpec, ResourcesSpec, TrainSpec, encode
from jobs.units import Interval

FORMAT = 2


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The best evaluation so far; accuracies are fractions."""

    epoch: int = 0
    step: int = 0
    validation_accuracy: float = -1.0
    train_accuracy: float = -1.0


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stands, besides what the network and the optimizer hold."""

    schedule: ScheduleState = ScheduleState()
    step: int = 0  # optimizer steps done in all
    images: int = 0  # trained on since the last evaluation
    elapsed_s: float = 0.0
    best: Best = Best()


class Due:
    """When the next checkpoint is due: after so much time, or after so many epochs."""

    def __init__(self, interval: Interval, steps_per_epoch: int, clock: Callable[[], float]) -> None:
        self._seconds = interval.seconds
        self._steps = None if interval.epochs is None else interval.epochs * steps_per_epoch
        self._clock = clock
        self._last = clock()
        self._last_step = 0

    def is_due(self, step: int) -> bool:
        if self._steps is not None:
            return step // self._steps > self._last_step // self._steps
        assert self._seconds is not None
        return self._clock() - self._last >= self._seconds

    def done(self, step: int) -> None:
        self._last, self._last_step = self._clock(), step


def save_checkpoint(
    path: Path,
    spec: JobSpec,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    tallies: Mapping[str, torch.Tensor],
    position: Position,
    previous: Path | None = None,
) -> None:
    """Write all of a job's state, atomically. `tallies` is what it has summed up since the last evaluation.

    What was in `path` is kept as `previous`, if that is given. Raises NoRoomError, everything being as it was.
    """
    state = {
        "format": FORMAT,
        "spec": _identity(spec),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "tallies": dict(tallies),
        "position": msgspec.to_builtins(position),
        "random": random_state(_device_of(tallies)),
    }
    _write(path, state, previous)


def resume(
    files: RunDir,
    spec: JobSpec,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    tallies: Mapping[str, torch.Tensor],
) -> Position | None:
    """Load the last checkpoint that is whole, as `load_checkpoint` does; None if there is none.

    A damaged one is kept under another name, where it is no checkpoint any more, and said to be so on stdout.
    """
    damaged = False
    for path in (files.last_checkpoint, files.previous_checkpoint):
        if not path.exists():
            continue
        try:
            return load_checkpoint(path, spec, network, optimizer, tallies)
        except DamagedCheckpointError as error:
            damaged = True
            aside = path.replace(path.with_suffix(".damaged"))
            print(f"{error}; it is left out, and kept as {aside.name}", flush=True)
    if damaged:
        print("no whole checkpoint is left: training begins anew", flush=True)
    return None


def load_checkpoint(
    path: Path,
    spec: JobSpec,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    tallies: Mapping[str, torch.Tensor],
) -> Position:
    """Put a checkpoint's state into the given objects and return the position.

    Raises DamagedCheckpointError if the file is not whole, and CheckpointError if it cannot be read, or belongs to a
    job that trains differently.
    """
    state = _read(path)
    with _fitting(path):
        if state["spec"] != _identity(spec):
            raise CheckpointError(f"{path}: belongs to another job; without {path.parent} it trains from the beginning")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        for name, tally in tallies.items():
            tally.copy_(state["tallies"][name])
        set_random_state(state["random"], _device_of(tallies))
        return msgspec.convert(state["position"], Position)


def save_weights(path: Path, spec: JobSpec, network: nn.Module) -> None:
    """Write a network's weights and buffers, atomically."""
    _write(path, {"format": FORMAT, "spec": _identity(spec), "network": network.state_dict()})


def load_weights(path: Path, network: nn.Module) -> None:
    """Raises DamagedCheckpointError if the file is not whole, CheckpointError if it does not fit the network."""
    state = _read(path)
    with _fitting(path):
        network.load_state_dict(state["network"])


def stored_bytes(network: nn.Module) -> int:
    """What a checkpoint holds of a network: the CPU's memory has it twice while it is read."""
    stored = (one.untyped_storage() for one in network.state_dict().values() if isinstance(one, torch.Tensor))
    return sum({id(one): one.nbytes() for one in stored}.values())


def _device_of(tallies: Mapping[str, torch.Tensor]) -> torch.device:
    return next(iter(tallies.values())).device


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's global generators that training on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _identity(spec: JobSpec) -> str:
    """The spec without what does not change how it trains."""
    train = replace(spec.train, checkpoint_every=TrainSpec().checkpoint_every)
    diagnostics = DiagnosticsSpec(gradient_flow=spec.diagnostics.gradient_flow)
    resources = replace(spec.resources, memory=ResourcesSpec().memory)
    same = {"train": train, "resources": resources, "limits": LimitsSpec(), "diagnostics": diagnostics}
    return encode(replace(spec, name="", priority=0, **same)).decode()


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Say in one line that a sound checkpoint is of another network, or holds only weights."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[:2][-1].strip()  # torch's first line names only the network's class
        raise CheckpointError(
            f"{path}: does not fit the network, whose code may have changed since: {problem[:200]}"
        ) from error


def _write(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    make_private_folder(path.parent)
    write_atomically(path, lambda file: torch.save(state, file), previous=previous)


def _read(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as archive:
            warnings.simplefilter("ignore")
            if archive.testzip() is not None:  # torch.load does not look at checksums
                raise zipfile.BadZipFile("a checksum does not match")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        kind = DamagedCheckpointError if error.errno == errno.EIO else CheckpointError
        raise kind(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # torch.load has no exception of its own for a damaged file
        if is_out_of_memory(error):
            raise
        raise DamagedCheckpointError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: written by another version of gpuq, which can read it; "
            f"without {path.parent} the job trains from the beginning"
        )
    return state
