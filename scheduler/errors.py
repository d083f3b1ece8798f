"""What the scheduler can refuse. The tree's root is `jobs.errors.GpuqError`: one line a user can act on."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import room
from jobs.errors import GpuqError
from jobs.units import format_bytes

REBUILD = "`gpuq doctor --rebuild` restores the queue from the run directories"


class UnknownJobError(GpuqError):
    exit_code = 2

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job {job_id}; `gpuq status` lists them")


class StoreError(GpuqError):
    """The store cannot be used as it is."""


class StoreFullError(StoreError):
    """The store cannot be changed: its disk is full. Nothing was changed."""

    def __init__(self, path: Path) -> None:
        free, needed = format_bytes(room.free_bytes(path.parent)), format_bytes(room.LEAST_BYTES)
        super().__init__(f"{path.parent}: no room on the disk ({free} free, {needed} needed); make room and try again")


class DamagedStoreError(StoreError):
    """What is in the store's place is not a store any more."""

    def __init__(self, path: Path | str, what: str) -> None:
        self.what = what
        super().__init__(f"{path}: cannot be used as the queue's store: {what}; {REBUILD}")


class DeviceUnreadableError(GpuqError):
    """The device does not answer. Nothing is started until it does."""


class DispatcherRunningError(GpuqError):
    """Another dispatcher holds this device."""


_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite finds a file damaged, or none of its own: it says so by the base class of its errors alone.

    What has become another table, column or statement by a flipped bit is an error of SQL, and text that is none any
    more has no code. https://docs.python.org/3/library/sqlite3.html#sqlite3.DatabaseError
    """
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
    return type(error) in _UNREADABLE


_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


def is_full(error: BaseException) -> bool:
    """Whether an exception comes of a full disk or quota, as SQLite or the system tells it."""
    codes = (getattr(one, "sqlite_errorcode", None) for one in room.causes(error))
    return room.is_full(error) or any(code in _FULL for code in codes)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Raises StoreError for what goes wrong with a store's file: DamagedStoreError if it is damaged, StoreFullError if
    its disk is full.
    """
    try:
        yield
    except (*_UNREADABLE, OSError) as error:
        if is_damage(error):
            raise DamagedStoreError(path, str(error)) from error
        if is_full(error):
            raise StoreFullError(path) from error
        raise StoreError(f"{path}: cannot be used as the queue's store: {error}") from error
