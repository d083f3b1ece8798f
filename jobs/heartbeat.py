"""A worker's sign that it gets on, for its parent process to see: when a file was last modified."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 1.0


class Heartbeat:
    """To be called after every piece of work, however small: it touches the file once a second at most."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._due = clock()

    def __call__(self) -> None:
        now = self._clock()
        if now >= self._due:
            with contextlib.suppress(OSError):  # a full disk, for one, is no reason to end training
                self._path.touch(mode=0o600)
            self._due = now + INTERVAL_S
