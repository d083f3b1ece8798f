"""A job's log: what its worker prints, capped, so that no job can fill the disk. And logs on a disk that is full."""

import os
from collections import deque
from pathlib import Path

from jobs.run_dir import open_private

HEAD_BYTES = 8 << 20
TAIL_BYTES = 64 << 10


class LossyFile:
    """Appends to a file. What cannot be written, as on a full disk, is left out, and counted there once it can."""

    def __init__(self, path: Path) -> None:
        self._file = open_private(path, "ab")
        self._lost = 0

    def write(self, text: bytes) -> None:
        if self._lost and not self._append(b"\n[... %d bytes left out: no room on the disk ...]\n" % self._lost):
            self._lost = 0
        if self._lost:
            self._lost += len(text)
        else:
            self._lost = self._append(text)

    def close(self) -> None:
        self._file.close()

    def _append(self, text: bytes) -> int:
        """Write without a buffer, which would try again when it closes; returns how many bytes could not be."""
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError:
            return len(rest)
        return 0


class CappedLog:
    """Appends to a file up to a cap; of what comes after it, keeps the end and writes it on `close`."""

    def __init__(self, path: Path, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._file = LossyFile(path)
        self._room = head_bytes
        self._tail_bytes = tail_bytes
        self._tail: deque[bytes] = deque()
        self._held = 0
        self._left_out = 0

    def write(self, text: bytes) -> None:
        head, rest = text[: self._room], text[self._room :]
        self._room -= len(head)
        if head:
            self._file.write(head)
        if rest:
            self._hold(rest)

    def close(self) -> None:
        tail = b"".join(self._tail)
        left_out = self._left_out + max(0, len(tail) - self._tail_bytes)
        if left_out:
            self._file.write(b"\n[... %d bytes left out ...]\n" % left_out)
        self._file.write(tail[-self._tail_bytes :])
        self._file.close()

    def _hold(self, text: bytes) -> None:
        self._tail.append(text)
        self._held += len(text)
        while self._held - len(self._tail[0]) >= self._tail_bytes:
            dropped = len(self._tail.popleft())
            self._held -= dropped
            self._left_out += dropped


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, none if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
