"""What people ask of queued, running and finished jobs."""

import sys
import time
from collections.abc import Iterable, Sequence

from jobs.errors import GpuqError
from scheduler.background import ensure_dispatcher, running_dispatcher
from scheduler.home import Home
from scheduler.pausing import held, held_in_words
from scheduler.states import Outcome, State
from scheduler.store import Store
from scheduler.watched import Watched

POLL_S = 0.2
PATIENCE_S = 5.0  # a dispatcher that a submit has just started takes a moment to take up its post


def cancel_jobs(home: Home, ids: Iterable[int]) -> Iterable[str]:
    """Cancel each job; a line for each. Raises UnknownJobError before anything is cancelled."""
    store = Store(home.store)
    jobs = store.jobs(ids)
    for job in jobs:
        cancelled = store.cancel(job.id)
        if job.state is State.FINISHED:
            yield f"job {job.id} had ended already ({job.outcome})"
        elif cancelled.state is State.FINISHED:
            yield f"job {job.id} cancelled"
        else:
            yield f"job {job.id} will end after its checkpoint"
    if store.live_attempts() and running_dispatcher(store) is None:
        yield "no dispatcher is running to end what runs; `gpuq start` starts it"


def retry_jobs(
    home: Home, ids: Sequence[int], *, start: bool, device: str, memory_bytes: int | None
) -> tuple[list[int], int | None]:
    """Queue finished jobs again, all or none; their ids, and the pid of a dispatcher if one was started.

    Raises GpuqError if one has not ended, or has succeeded.
    """
    store = Store(home.store)
    for job in store.jobs(ids):
        if job.state is not State.FINISHED:
            raise GpuqError(f"job {job.id} has not ended: it is {job.state}")
        if job.outcome is Outcome.SUCCEEDED:
            raise GpuqError(f"job {job.id} has succeeded; submit its file again to train anew")
    retried = [job_id for job_id in ids if store.retry(job_id)]
    if not start or not store.has_work():  # the queue may be paused
        return retried, None
    pid, started = ensure_dispatcher(home, store, device, memory_bytes)
    return retried, pid if started else None


def wait_for(home: Home, ids: Sequence[int]) -> bool:
    """Wait until all have ended; whether all succeeded. Raises GpuqError when nothing will end them.

    Those that are held are waited for, too; whenever they are others than before, stderr tells.
    """
    store = Store(home.store)
    last_seen = time.monotonic()
    said = ""
    watched = Watched(store, ids)
    while unfinished := [job for job in watched.jobs() if job.state is not State.FINISHED]:
        pause = store.queue_pause()
        waiting = held(unfinished, pause)
        if waiting and (words := held_in_words(waiting, pause)) != said:
            print(said := words, file=sys.stderr, flush=True)
        if running_dispatcher(store) is not None or len(waiting) == len(unfinished):
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > PATIENCE_S:
            raise GpuqError("no dispatcher is running, so these jobs will not end; `gpuq start` starts it")
        time.sleep(POLL_S)
    return all(job.outcome is Outcome.SUCCEEDED for job in watched.jobs())


def print_log(home: Home, job_id: int, *, follow: bool) -> None:
    """Print a job's log; with `follow`, go on until the job has ended. Raises UnknownJobError."""
    store = Store(home.store, even_if_full=not follow)
    path = home.run_dir(job_id).log
    position = 0
    while True:
        ended = store.job(job_id).state is State.FINISHED or not follow
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                while text := file.read(1 << 16):
                    sys.stdout.buffer.write(text)
                    position += len(text)
            sys.stdout.flush()
        if ended:
            break
        time.sleep(POLL_S)
    if position == 0:
        print(f"job {job_id} has printed nothing yet", file=sys.stderr)
