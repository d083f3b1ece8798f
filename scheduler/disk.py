"""Room on the disk of the state directory: what a job needs before it starts, and what is said when there is none."""

from pathlib import Path

from msgspec import Struct

from jobs.room import LEAST_BYTES, NoRoomError, free_bytes
from jobs.run_dir import RunDir
from jobs.spec import JobSpec, Sgd
from jobs.units import format_bytes
from scheduler.errors import StoreFullError
from scheduler.home import Home

CHECKPOINTS = 3  # of a job at once: the last, the one before, and the one being written
_WEIGHT_BYTES = 4


class DiskReport(Struct, frozen=True, kw_only=True):
    """The disk of the state directory."""

    folder: str
    free_bytes: int
    error: str | None = None  # why nothing can be queued or started


def look(home: Home) -> DiskReport:
    free = free_bytes(home.path)
    full = f"no room in {home.path}: {format_bytes(free)} free, {format_bytes(LEAST_BYTES)} needed"
    return DiskReport(folder=str(home.path), free_bytes=free, error=full if free < LEAST_BYTES else None)


def require(folder: Path, needed_bytes: int) -> None:
    """Raises NoRoomError if less is free on the folder's disk."""
    if free_bytes(folder) < needed_bytes:
        raise NoRoomError(folder, needed_bytes)


def require_room(home: Home) -> None:
    """Raises StoreFullError if there is none for a change of the queue."""
    if free_bytes(home.path) < LEAST_BYTES:
        raise StoreFullError(home.store)


def needed_bytes(files: RunDir, spec: JobSpec, parameters: int) -> int:
    """What a job is still to write in its run directory, about: a network's buffers, for one, are not known."""
    checkpoints = (files.last_checkpoint, files.previous_checkpoint, files.best_checkpoint)
    written = sum(path.stat().st_size for path in checkpoints if path.exists())
    weights = _WEIGHT_BYTES * parameters
    in_all = CHECKPOINTS * weights * (1 + _slots(spec)) + weights  # and the best weights
    return LEAST_BYTES + max(0, in_all - written)


def _slots(spec: JobSpec) -> int:
    """How many numbers the optimizer keeps for each weight."""
    if isinstance(spec.optimizer, Sgd):
        return 1 if spec.optimizer.momentum else 0
    return 2
