"""What the scheduler can refuse. The tree's root is `jobs.errors.GpuqError`: one line a user can act on."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import GpuqError

REBUILD = "`gpuq doctor --rebuild` restores the queue from the run directories"


class UnknownJobError(GpuqError):
    exit_code = 2

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job {job_id}; `gpuq status` lists them")


class StoreError(GpuqError):
    """The store cannot be used as it is."""


class DamagedStoreError(StoreError):
    """What is in the store's place is not a store any more."""

    def __init__(self, path: Path | str, what: str) -> None:
        self.what = what
        super().__init__(f"{path}: cannot be used as the queue's store: {what}; {REBUILD}")


class DeviceUnreadableError(GpuqError):
    """The device does not answer. Nothing is started until it does."""


class DispatcherRunningError(GpuqError):
    """Another dispatcher holds this device."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite finds a file damaged, or none of its own: it says so by the base class of its errors alone.

    https://docs.python.org/3/library/sqlite3.html#sqlite3.DatabaseError
    """
    return type(error) is sqlite3.DatabaseError


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Raises StoreError for what goes wrong with a store's file, DamagedStoreError if it is damaged."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise DamagedStoreError(path, str(error)) from error
        raise StoreError(f"{path}: cannot be used as the queue's store: {error}") from error
