"""`gpuq doctor --rebuild`: the queue restored from the run directories, when the store is damaged or gone."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from jobs.errors import GpuqError
from jobs.run_dir import sync_folder
from scheduler.cli_types import as_ranges
from scheduler.clock import utc_now
from scheduler.errors import DamagedStoreError
from scheduler.home import Home
from scheduler.records import Job, Remains
from scheduler.remains import from_files, from_store, remembered
from scheduler.schema import folder_beside, make_store
from scheduler.store import Store

COMPANIONS = ("-wal", "-shm")  # what SQLite keeps beside a store, https://www.sqlite.org/tempfiles.html


@dataclass(frozen=True)
class Rebuilt:
    """What has become of the queue."""

    restored: Sequence[Remains]
    left_out: Sequence[str]  # why, of each run directory that does not tell its job
    aside: Path | None  # where the damaged store is now, if there was one

    def in_words(self) -> Iterator[str]:
        queued = [job.id for job in self.restored if job.is_queued]
        yield f"restored {len(self.restored)} jobs, {len(self.restored) - len(queued)} of them finished"
        if queued:
            yield f"queued: {as_ranges(queued)}; `gpuq start` goes on with them, `gpuq cancel` ends what is not wanted"
        for reason in self.left_out:
            yield f"left out: {reason}"
        if self.aside is not None:
            yield f"the damaged store is kept as {self.aside}"


def rebuild(home: Home) -> Rebuilt:
    """Replace a damaged or missing store by a new one, from the run directories and what is readable of the old.

    The damaged one is kept under another name, as it was. One in order that was made after a loss, and has jobs since,
    is given those that it does not know. Raises GpuqError if it knows all, or while a dispatcher or an attempt lives;
    StoreError if the store is one of another gpuq.
    """
    with _without_dispatcher(home), folder_beside(home.store) as folder:
        for job_id in home.run_ids():
            _refuse_if_alive(home, job_id)
        kept, made = Path(folder) / "kept", Path(folder) / "made"
        _copy(home.store, kept)  # before it is opened: SQLite may then write what it finds in the log
        if known := _jobs_in_order(home.store):
            return _add(home, known)
        restored, left_out = _find(home, home.run_ids(), remembered(home.store))
        make_store(made, last_id=max(home.run_ids(), default=0))
        with contextlib.closing(Store(made)) as store:
            store.restore(restored)
        aside = _keep(kept, home.store)
        _put_in_place(made, home.store)
    return Rebuilt(restored, left_out, aside)


def _add(home: Home, known: Set[int]) -> Rebuilt:
    """Put jobs that the store does not know into it."""
    unknown = [job_id for job_id in home.run_ids() if job_id not in known]
    if not unknown:
        raise GpuqError(f"{home.store} is in order: there is nothing to rebuild")
    restored, left_out = _find(home, unknown, {})
    with contextlib.closing(Store(home.store)) as store:
        store.restore(restored)
    return Rebuilt(restored, left_out, None)


def _find(home: Home, run_ids: Iterable[int], known: Mapping[int, Job]) -> tuple[list[Remains], list[str]]:
    """The jobs of run directories and those that are still known, by id, and why some run directories tell none."""
    found = {job_id: from_store(job) for job_id, job in known.items()}
    left_out = []
    for job_id in run_ids:
        try:
            found[job_id] = from_files(job_id, home.run_dir(job_id), known.get(job_id))
        except GpuqError as error:
            if job_id not in found:
                left_out.append(str(error))
    return [found[job_id] for job_id in sorted(found)], left_out


def _copy(store: Path, copy: Path) -> None:
    for end in ("", *COMPANIONS):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(_with_end(store, end), _with_end(copy, end))


def _keep(kept: Path, store: Path) -> Path | None:
    """Give the copy of a damaged store its name beside the new one; None if there was nothing to copy."""
    aside = _with_end(store, f".damaged-{utc_now().replace(':', '')}")
    for end in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            _with_end(kept, end).rename(_with_end(aside, end))
    with contextlib.suppress(FileNotFoundError):
        kept.rename(aside)
        return aside
    return None


def _put_in_place(made: Path, store: Path) -> None:
    """At no moment is there no store, so that nobody makes an empty one.

    What lies beside the old one goes first: SQLite would take its write-ahead log for the new one's.
    """
    sync_folder(store.parent)
    for end in COMPANIONS:
        _with_end(store, end).unlink(missing_ok=True)
    made.replace(store)
    sync_folder(store.parent)


def _with_end(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _jobs_in_order(path: Path) -> Set[int]:
    """The jobs of a store that is in order; none of one that is damaged, gone, or empty."""
    if path.exists():
        with contextlib.suppress(DamagedStoreError), contextlib.closing(Store(path)) as store:
            store.check()
            return {job.id for job in store.jobs()}
    return set()


@contextlib.contextmanager
def _without_dispatcher(home: Home) -> Iterator[None]:
    """Hold the dispatcher's post, so that none can take it."""
    lock = FileLock(home.dispatcher_lock, mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise GpuqError(f"a dispatcher is running: stop it first ({_stopping(home.dispatcher_lock)})") from None
    try:
        yield
    finally:
        lock.release()


def _refuse_if_alive(home: Home, job_id: int) -> None:
    """An attempt lives while its parent process holds its lock: see scheduler.supervisor."""
    for path in home.run_dir(job_id).attempts.glob("*/lock"):
        with path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reason = f"job {job_id} is still training: let it end, or stop it ({_stopping(path)})"
                raise GpuqError(reason) from None


def _stopping(lock: Path) -> str:
    """How to stop the process that holds a lock: its pid is in a store that cannot be read, and in proc_locks(5)."""
    status = lock.stat()
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == file:
            return f"kill {fields[4]}"
    return f"fuser {lock} tells its pid"
