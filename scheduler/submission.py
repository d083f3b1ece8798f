"""From job files to queued jobs."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from jobs.job_file import read_job_files
from scheduler.background import running_dispatcher, start_dispatcher
from scheduler.cli_types import as_ranges
from scheduler.copies import leave_copies
from scheduler.disk import require_room
from scheduler.home import Home
from scheduler.origin import origin
from scheduler.pausing import queue_in_words
from scheduler.store import Store


class SubmittedJob(Struct, frozen=True, kw_only=True):
    id: int
    name: str


class Submission(Struct, frozen=True, kw_only=True):
    """What a submit did. The dispatcher is the one that ran or was started; None if there is neither."""

    jobs: list[SubmittedJob]
    dispatcher_pid: int | None
    dispatcher_started: bool
    dispatcher_log: str
    waits: str | None = None  # why no job starts now

    def in_words(self) -> str:
        count = len(self.jobs)
        lines = [f"queued {count} job{'s' * (count != 1)}: {as_ranges(job.id for job in self.jobs)}"]
        if self.dispatcher_started:
            lines.append(f"dispatcher started (pid {self.dispatcher_pid}), log: {self.dispatcher_log}")
        elif self.waits is not None:
            lines.append(self.waits)
        elif self.dispatcher_pid is None:
            lines.append("no dispatcher is running; `gpuq start` starts it")
        return "\n".join(lines)


def submit_files(
    home: Home,
    files: Iterable[Path],
    *,
    start: bool,
    device: str,
    memory_bytes: int | None,
    max_failures: int | None = None,
) -> Submission:
    """Queue all jobs of all files. Raises InputError, and queues nothing, if anything in any file is wrong."""
    store = Store(home.store)
    jobs, running_pid = queue_files(home, store, files)
    starts = start and running_pid is None and store.has_work()
    started_pid = start_dispatcher(home, device, memory_bytes, max_failures) if starts else None
    pause = store.queue_pause()
    return Submission(
        waits=None if pause is None else queue_in_words(pause),
        jobs=list(jobs),
        dispatcher_pid=running_pid or started_pid,
        dispatcher_started=started_pid is not None,
        dispatcher_log=str(home.dispatcher_log),
    )


def queue_files(home: Home, store: Store, files: Iterable[Path]) -> tuple[Sequence[SubmittedJob], int | None]:
    """Queue all jobs of all files; also the pid of the dispatcher that runs, if one does.

    A dispatcher gives up its post only in a transaction that finds nothing to do, so that one which was alive in
    the transaction that queued these jobs will see them. Raises InputError, and DamagedStoreError before anything is
    put into a damaged store; one that a dispatcher works with it has checked itself.
    """
    specs = [spec for _, spec in read_job_files(files)]
    require_room(home)
    if running_dispatcher(store) is None:
        store.check(quick=True)
    ids, dispatcher = store.submit(specs, origin(Path.cwd()))
    with contextlib.suppress(OSError):  # they are queued; a dispatcher tries again
        leave_copies(home, store.jobs(ids))
    jobs = [SubmittedJob(id=job_id, name=spec.name) for job_id, spec in zip(ids, specs, strict=True)]
    alive = dispatcher is not None and dispatcher.is_alive()
    return jobs, dispatcher.pid if alive and dispatcher else None
