"""`gpuq clean`: away with finished jobs, and with what killed processes left behind."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from jobs.errors import GpuqError
from jobs.run_dir import make_private_folder, sync_folder
from jobs.units import format_bytes
from scheduler import disk
from scheduler.cli_types import as_ranges
from scheduler.clock import as_utc
from scheduler.home import Home
from scheduler.process import identify
from scheduler.records import Job
from scheduler.states import State
from scheduler.store import Store

BLOCK_BYTES = 512  # of st_blocks, stat(2)
_UNFINISHED_WRITE = re.compile(r"\..+\.(\d+)\.tmp")  # as jobs.run_dir and scheduler.schema name it


class Cleaned(Struct, frozen=True, kw_only=True):
    """What was removed, or would be."""

    jobs: list[int]
    leftovers: int  # unfinished writes of processes that are gone, and run directories that an earlier clean left
    bytes: int  # on disk

    def in_words(self, verb: str) -> str:
        """Such as "removed jobs 1-3 and 2 leftovers of killed processes: 1.5 GiB"."""
        parts = [f"jobs {as_ranges(self.jobs)}" if self.jobs else "no jobs"]
        if self.leftovers:
            parts.append(f"{self.leftovers} leftovers of killed processes")
        return f"{verb} {' and '.join(parts)}: {format_bytes(self.bytes)}"


def choose(
    store: Store, ids: Sequence[int] | None, older_than_s: float | None, now: Callable[[], float] = time.time
) -> list[int]:
    """The finished jobs among the given ones (None: among all) that ended so long ago; none if neither is given.

    Raises UnknownJobError, and GpuqError if one that was asked for by its id has not ended.
    """
    if ids is None and older_than_s is None:
        return []
    jobs = store.jobs(ids)
    for job in jobs:
        if ids is not None and job.state is not State.FINISHED:
            raise GpuqError(f"job {job.id} has not ended, it is {job.state}: `gpuq cancel {job.id}` ends it")
    before = None if older_than_s is None else as_utc(max(0.0, now() - older_than_s))
    return [job.id for job in jobs if job.state is State.FINISHED and _ended_before(job, before)]


def clean(home: Home, store: Store, ids: Sequence[int], *, dry_run: bool = False) -> Cleaned:
    """Remove these jobs, unless somebody has them tried again meanwhile, and whatever was left behind.

    A run directory is moved to `removed/` in the transaction that forgets its job, and then deleted: what a kill leaves
    there, the next call deletes.
    """
    found = list(leftovers(home))
    if dry_run:
        folders = [home.run_dir(job_id).path for job_id in ids]
        return Cleaned(jobs=list(ids), leftovers=len(found), bytes=sum(map(disk_bytes, [*found, *folders])))
    freed = sum(_delete(path) for path in found)
    if disk.look(home).error is not None:  # to forget a job takes some room in the store
        freed += sum(_delete(home.run_dir(job_id).previous_checkpoint) for job_id in ids)
    removed = [job_id for job_id in ids if store.remove(job_id, partial(_set_aside, home, job_id))]
    freed += sum(_delete(home.removed / str(job_id)) for job_id in removed)
    return Cleaned(jobs=removed, leftovers=len(found), bytes=freed)


def leftovers(home: Home) -> Iterator[Path]:
    """What a process was writing when it was killed, and run directories whose deletion was cut short."""
    if home.removed.exists():
        yield from home.removed.iterdir()
    for folder, folders, names in os.walk(home.path):
        if Path(folder) == home.path:
            folders[:] = [name for name in folders if name != home.removed.name]
        unfinished = [name for name in (*folders, *names) if _was_left(name)]
        yield from (Path(folder) / name for name in unfinished)
        folders[:] = [name for name in folders if name not in unfinished]


def _was_left(name: str) -> bool:
    match = _UNFINISHED_WRITE.fullmatch(name)
    return match is not None and identify(int(match[1])) is None


def disk_bytes(path: Path) -> int:
    """What a file, or a folder with all in it, takes on disk; 0 if it is not there."""
    paths = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(one.lstat().st_blocks * BLOCK_BYTES for one in paths if os.path.lexists(one))


def _ended_before(job: Job, before: str | None) -> bool:
    return before is None or (job.finished_at is not None and job.finished_at < before)


def _set_aside(home: Home, job_id: int) -> None:
    """Move a run directory where nobody looks for it."""
    source = home.run_dir(job_id).path
    if source.exists():
        make_private_folder(home.removed)
        source.rename(home.removed / str(job_id))
        for folder in (home.removed, home.runs):
            sync_folder(folder)


def _delete(path: Path) -> int:
    """Delete a file or a folder, unless somebody else is at it; the bytes it took."""
    with contextlib.suppress(FileNotFoundError):
        size = disk_bytes(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        return size
    return 0
