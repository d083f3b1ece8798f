"""Arrays decoded once and memory-mapped ever after, by any number of processes."""

import errno
import json
import math
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from numpy.lib.format import open_memmap

from augment.errors import DataError, NoRoomForDataError

Array = npt.NDArray[Any]

_MANIFEST = "manifest.json"
_BLOCK_BYTES = 4096  # of most file systems
_ROWS_AT_ONCE = 64


def cached_arrays(entry: Path, fingerprint: str, build: Callable[[Path], None]) -> Mapping[str, Array]:
    """The arrays of the cache folder `entry`, by file stem, memory-mapped read-only.

    `build(folder)` writes them as .npy files into `folder`; it is called when there is no entry, when the
    entry was built for another `fingerprint`, or when its files are damaged. Of several processes that ask at
    once, one builds and the others wait. Raises NoRoomForDataError when its disk is full, DataError when the cache
    cannot be written, and what `build` raises.
    """
    arrays = _open(entry, fingerprint)
    if arrays is not None:
        return arrays
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock", mode=0o600):
            arrays = _open(entry, fingerprint)
            if arrays is None:
                _write(entry, fingerprint, build)
                arrays = _open(entry, fingerprint)
    except OSError as error:
        if _is_full(error):
            raise NoRoomForDataError(entry.parent, _BLOCK_BYTES) from error
        raise DataError(f"{entry}: the decoded data cannot be kept there: {error}") from error
    if arrays is None:
        raise DataError(f"{entry}: the decoded data does not read back; is the disk sound?")
    return arrays


def copied_rows(array: Array, index: npt.NDArray[np.int64]) -> Array:
    """The rows at `index` of an array that may be memory-mapped; of its pages few are resident at any moment.

    Whoever touches a row is given the pages around it as well, and a few rows here and there of a large file come to
    hundreds of MiB: more than a job may need in all.
    """
    rows = np.empty((len(index), *array.shape[1:]), array.dtype)
    mapped = getattr(array, "_mmap", None)
    for start in range(0, len(index), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        rows[some] = array[index[some]]
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)
    return rows


def save_array(path: Path, array: Array) -> None:
    """Write an .npy file, as a `build` does. Raises NoRoomForDataError."""
    with _telling_of_room(path, array.nbytes), path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, array.nbytes + _BLOCK_BYTES)  # NumPy would not say why it failed
        np.save(file, array)
        file.truncate()


def new_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
    """An .npy file to fill, memory-mapped. Its room is taken now: to write into a map on a full disk is SIGBUS.

    Raises NoRoomForDataError.
    """
    with _telling_of_room(path, np.dtype(dtype).itemsize * math.prod(shape)):
        array: Array = open_memmap(path, "w+", dtype, shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array


@contextmanager
def _telling_of_room(path: Path, needed_bytes: int) -> Iterator[None]:
    """Raises NoRoomForDataError for what a full disk makes of writing a file of an entry."""
    try:
        yield
    except OSError as error:
        if _is_full(error):
            raise NoRoomForDataError(path.parent.parent, needed_bytes) from error
        raise


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _open(entry: Path, fingerprint: str) -> Mapping[str, Array] | None:
    """The arrays of `entry`, or None if they are not exactly what was written for `fingerprint`."""
    try:
        manifest = json.loads((entry / _MANIFEST).read_bytes())
        if manifest["fingerprint"] != fingerprint:
            return None
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in manifest["arrays"]}
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None  # absent, truncated or overwritten
    return arrays if _describe(arrays) == manifest["arrays"] else None


def _write(entry: Path, fingerprint: str, build: Callable[[Path], None]) -> None:
    """Build into a temporary folder, make it durable, and put it in the place of `entry`."""
    partial = entry.with_name(f"{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a builder that was killed
    partial.mkdir(mode=0o700)
    try:
        build(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # others may need its room
        raise
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(partial.glob("*.npy"))}
    manifest = {"fingerprint": fingerprint, "arrays": _describe(arrays)}
    (partial / _MANIFEST).write_text(json.dumps(manifest))
    for path in partial.iterdir():
        path.chmod(0o600)
        _fsync(path)
    _fsync(partial)
    shutil.rmtree(entry, ignore_errors=True)  # processes that have it mapped keep their files
    partial.rename(entry)
    _fsync(entry.parent)


def _describe(arrays: Mapping[str, Array]) -> dict[str, list[object]]:
    return {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
