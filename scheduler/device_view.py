"""The device as the dispatcher last saw it, left where `gpuq status` finds it without asking the device again."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from jobs.room import NoRoomError
from jobs.run_dir import write_atomically
from scheduler.device import Snapshot
from scheduler.records import Attempt


class DeviceView(Struct, frozen=True, kw_only=True):
    snapshot: Snapshot
    reserved_bytes: int
    error: str | None = None  # why the device could not be read
    warning: str | None = None  # why estimates for it are less sure


def write_view(path: Path, view: DeviceView) -> None:
    """Replace the view, if there is room for another. Not fsynced: it means nothing once its dispatcher is gone."""
    with contextlib.suppress(NoRoomError):
        write_atomically(path, msgspec.json.encode(view), durable=False)


def read_view(path: Path) -> DeviceView | None:
    """The last view, None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=DeviceView)
    except (OSError, msgspec.DecodeError):
        return None


def reserved_bytes(live: Iterable[Attempt]) -> int:
    """The bytes that live attempts hold reserved."""
    return sum(attempt.reservation_bytes for attempt in live)
