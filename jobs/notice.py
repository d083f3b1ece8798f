"""A line that a process puts up for others to read, even when the disk is full."""

import contextlib
from pathlib import Path

_BYTES = 4096  # a block of most file systems


class Notice:
    """A file of a fixed size, blank or with a line in it. Its room is taken while there is some; then it is overwritten
    in place. Where that cannot be, the notice is not seen, and nothing else happens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def reserve(self) -> None:
        """Make the file, blank."""
        with contextlib.suppress(OSError):
            self._path.touch(mode=0o600)
            self._write("")

    def put_up(self, line: str) -> None:
        self._write(line)

    def take_down(self) -> None:
        self._write("")

    def read(self) -> str | None:
        """The line; None if there is none."""
        try:
            return self._path.read_text(errors="replace").strip() or None
        except OSError:
            return None

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError), self._path.open("r+b", buffering=0) as file:
            file.write(line.encode().ljust(_BYTES)[:_BYTES])
