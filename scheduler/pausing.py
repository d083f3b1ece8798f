"""Pausing and resuming jobs and the whole queue, and saying what that means for whoever waits."""

from collections.abc import Iterable, Iterator, Sequence

from scheduler.background import ensure_dispatcher, running_dispatcher
from scheduler.cli_types import as_ranges
from scheduler.home import Home
from scheduler.records import Job, QueuePause
from scheduler.states import State, Wish
from scheduler.store import Store

RESUME_ALL = "`gpuq resume --all` goes on"


def pause_jobs(home: Home, ids: Iterable[int]) -> Iterator[str]:
    """Pause each job; a line for each. Raises UnknownJobError before anything is paused."""
    store = Store(home.store)
    for job in store.jobs(ids):
        yield _paused(store.pause(job.id))
    yield from _nobody_to_stop(store)


def pause_queue(home: Home) -> Iterator[str]:
    """Pause the whole queue; in words."""
    store = Store(home.store)
    store.pause_queue()
    ending = as_ranges(attempt.job_id for attempt in store.live_attempts())
    yield f"the queue is paused{f'; will be queued again after a checkpoint: {ending}' if ending else ''}; {RESUME_ALL}"
    yield from _nobody_to_stop(store)


def resume_jobs(home: Home, ids: Iterable[int]) -> Iterator[str]:
    """Resume each job; a line for each. Raises UnknownJobError before anything is resumed."""
    store = Store(home.store)
    for job in store.jobs(ids):
        was = store.resume(job.id)
        yield f"job {was.id} {'resumed' if was.is_paused else 'is not paused'}"
    if (pause := store.queue_pause()) is not None:
        yield queue_in_words(pause)


def resume_queue(home: Home) -> Iterator[str]:
    """Resume the whole queue; in words."""
    store = Store(home.store)
    yield "the queue goes on" if store.resume_queue() else "the queue is not paused"
    if still := as_ranges(job.id for job in store.jobs() if job.is_paused):
        yield f"paused by themselves, and still so: {still}"


def start_if_needed(home: Home, device: str, memory_bytes: int | None) -> int | None:
    """Start a dispatcher if there is work and none runs; its pid.

    Called after the resumption is committed: an idle dispatcher gives up its post in a transaction that finds nothing
    to do, so one that is still registered will see it.
    """
    store = Store(home.store)
    if not store.has_work():
        return None
    pid, started = ensure_dispatcher(home, store, device, memory_bytes)
    return pid if started else None


def held(jobs: Iterable[Job], pause: QueuePause | None) -> list[Job]:
    """Those that are queued and will not start until somebody resumes them, or the queue."""
    return [job for job in jobs if job.state is State.QUEUED and (job.is_paused or pause is not None)]


def held_in_words(jobs: Sequence[Job], pause: QueuePause | None) -> str:
    """What has to be resumed for held jobs to go on: themselves, the queue, or both."""
    lines = [] if pause is None else [f"{queue_in_words(pause)}; held: {as_ranges(job.id for job in jobs)}"]
    if paused := [job.id for job in jobs if job.is_paused]:
        ids = as_ranges(paused)
        lines.append(f"paused: {ids}; `gpuq resume {ids.replace(',', '')}` queues {_them(paused)} again")
    return "\n".join(lines)


def queue_in_words(pause: QueuePause) -> str:
    why = "" if pause.reason is None else f": {pause.reason}"
    return f"the queue is paused{why}; {RESUME_ALL}"


def _them(ids: Sequence[int]) -> str:
    return "it" if len(ids) == 1 else "them"


def _paused(was: Job) -> str:
    if was.state is State.FINISHED:
        return f"job {was.id} had ended already ({was.outcome})"
    if was.wish is Wish.CANCEL:
        return f"job {was.id} is being cancelled"
    if was.is_paused:
        return f"job {was.id} is paused already"
    return f"job {was.id} will be held after its checkpoint" if was.is_live else f"job {was.id} paused"


def _nobody_to_stop(store: Store) -> Iterator[str]:
    if store.live_attempts() and running_dispatcher(store) is None:
        yield "no dispatcher is running to stop what runs; `gpuq start` starts it"
