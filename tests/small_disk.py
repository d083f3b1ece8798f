"""A real disk of a few MiB, to be filled: a tmpfs, mounted by root or by sudo that asks for no password.

Where neither is allowed, `unshare --map-root-user --mount uv run pytest ...` makes a root that may mount.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

AS_ROOT: tuple[list[str], ...] = ([], ["sudo", "-n"])
_CHUNK = bytes(1 << 16)


class SmallDisk:
    """A mounted disk, and the ballast that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, but_bytes: int = 0) -> None:
        """Leave no room, or only so many bytes."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for chunk in (_CHUNK, _CHUNK[:4096], _CHUNK[:1]):
                _write_until_full(ballast.fileno(), chunk)
            if but_bytes:
                os.ftruncate(ballast.fileno(), ballast.tell() - but_bytes)

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


def _write_until_full(descriptor: int, chunk: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, chunk)


@contextlib.contextmanager
def mounted(mebibytes: int) -> Iterator[SmallDisk]:
    """Skips the test where nothing can be mounted."""
    options = f"size={mebibytes}m,mode=700,uid={os.getuid()},gid={os.getgid()}"
    with tempfile.TemporaryDirectory(prefix="gpuq-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        prefix = next((prefix for prefix in AS_ROOT if _works([*prefix, *mount])), None)
        if prefix is None:
            pytest.skip("a small disk needs the right to mount one: root, or sudo without a password")
        try:
            yield SmallDisk(Path(folder))
        finally:
            subprocess.run([*prefix, "umount", "--lazy", folder], check=True)


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:  # there is no such program
        return False
