"""Room on the disk: how it is told that there is none, and how a worker waits until there is."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from jobs.notice import Notice
from jobs.units import format_bytes, format_duration

POLL_S = 2.0
LEAST_BYTES = 1 << 20  # to be free for records, logs and changes of the queue
_UNKNOWN_BYTES = 1 << 50

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class StopRequested(Exception):  # noqa: N818 — not an error: the wish to stop, met after a checkpoint if there is room
    """Training was asked to stop; what it had not written yet is made again from its last checkpoint."""


class NoRoomError(OSError):
    """A write found no room, or its user's quota used up. What was to be replaced or added to is as it was."""

    def __init__(self, folder: Path, needed_bytes: int) -> None:
        super().__init__(errno.ENOSPC, f"no room: {format_bytes(needed_bytes)} needed", str(folder))
        self.folder = folder
        self.needed_bytes = needed_bytes

    def __str__(self) -> str:
        return f"{format_bytes(self.needed_bytes)} needed in {self.folder}"


def is_full(error: BaseException | None) -> bool:
    """Whether an exception comes of a full disk or quota. torch.save, for one, raises another while it handles that."""
    return any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised for or while they were handled."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def free_bytes(folder: Path) -> int:
    """What may still be written on a folder's disk; a quota does not show.

    Some network file systems know nothing of their size: they have room until a write fails.
    """
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else _UNKNOWN_BYTES


class Room:
    """Writes that find no room wait for it. Meanwhile the log and a notice, which `gpuq status` shows, say so."""

    def __init__(
        self,
        notice: Notice,
        should_stop: Callable[[], bool],
        on_progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_progress` is called while it waits: a worker that waits does not hang."""
        self.waited_s = 0.0  # in all
        self._notice = notice
        self._should_stop = should_stop
        self._on_progress = on_progress
        self._clock = clock
        self._sleep = sleep

    def __call__(
        self, write: Callable[Arguments, Returned], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Returned:
        """What `write` returns, once it has found room. Raises StopRequested if asked to stop while there is none."""
        try:
            return write(*args, **kwargs)
        except NoRoomError as error:
            missing = error
        began = self._clock()
        print(f"waiting for room: {missing}", flush=True)
        try:
            while True:
                self._wait(missing)
                try:
                    return write(*args, **kwargs)
                except NoRoomError as error:
                    missing = error
        finally:
            waited_s = self._clock() - began
            self.waited_s += waited_s
            self._notice.take_down()
            print(f"waited {format_duration(waited_s)} for room", flush=True)

    def _wait(self, missing: NoRoomError) -> None:
        """Until there might be room: trying to write all the time would take it from others, and wear the disk."""
        self._notice.put_up(f"waiting for room: {missing}")
        while True:
            if self._should_stop():
                raise StopRequested
            self._on_progress()
            self._sleep(POLL_S)
            if free_bytes(missing.folder) >= missing.needed_bytes:
                return
