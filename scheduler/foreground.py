"""`gpuq run`: a dispatcher in the terminal, with a live table, until given jobs have ended or are held."""

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live

from scheduler import render
from scheduler.background import POLL_S, running_dispatcher, start_dispatcher
from scheduler.cli_types import as_ranges
from scheduler.clock import utc_now
from scheduler.device import Device, choose_device
from scheduler.errors import DispatcherRunningError
from scheduler.home import Home
from scheduler.pausing import held, held_in_words
from scheduler.records import Job, QueuePause
from scheduler.service import Stop, at_post, serve
from scheduler.states import Outcome, State
from scheduler.status import StatusReport, report
from scheduler.store import Store
from scheduler.submission import queue_files
from scheduler.watched import Watched
from scheduler.wishes import PAUSED

EXIT_CTRL_C = 130


def run_files(
    home: Home, files: Iterable[Path], *, device: str, memory_bytes: int | None, max_failures: int | None = None
) -> int:
    """Queue the jobs of the files, or take what is queued when there are none, and run to the end; the exit code."""
    chosen = choose_device(device, memory_bytes)
    store = Store(home.store)
    files = list(files)
    if files:
        ids = [job.id for job in queue_files(home, store, files)[0]]
    else:
        ids = [job.id for job in store.jobs() if job.state is not State.FINISHED]
    if not ids:
        render.console(stderr=True).print("nothing is queued")
        return 0
    stop = Stop()
    view = View(home, store, chosen, ids)
    with view.live():
        dispatched = _dispatch(home, store, chosen, stop, view, max_failures)
    if dispatched and not stop.requested.is_set() and store.has_work():
        pid = start_dispatcher(home, device, memory_bytes, max_failures)
        render.console(stderr=True).print(f"other jobs go on in the background (dispatcher pid {pid})")
    return _farewell(view, stopped=stop.requested.is_set(), dispatched=dispatched)


def _dispatch(home: Home, store: Store, device: Device, stop: Stop, view: "View", max_failures: int | None) -> bool:
    """Run until the jobs have ended or are held, or a stop is asked for, as the dispatcher unless there is one already.

    Whether it was we who dispatched at the end.
    """
    while True:
        try:
            with at_post(home, store):
                serve(
                    home,
                    store,
                    device,
                    stop,
                    is_done=view.is_done,
                    after_tick=view.refresh,
                    max_failures=max_failures,
                )
            return True
        except DispatcherRunningError:
            while not (view.is_done() or stop.requested.is_set()) and running_dispatcher(store) is not None:
                view.refresh()
                stop.requested.wait(POLL_S)
            if view.is_done() or stop.requested.is_set():
                return False


def _farewell(view: "View", *, stopped: bool, dispatched: bool) -> int:
    """Show how it stands and, after Ctrl-C, say how to go on; the exit code."""
    view.show_final()
    jobs, pause = view.jobs(), view.pause()
    waiting = held(jobs, pause)
    if waiting:
        render.console(stderr=True).print(held_in_words(waiting, pause), soft_wrap=True)
    if not stopped:
        return 0 if all(job.outcome is Outcome.SUCCEEDED for job in jobs) else 1
    left = as_ranges(job.id for job in jobs if job.state is not State.FINISHED and job not in waiting)
    render.console(stderr=True).print(_stopped(left, dispatched=dispatched), soft_wrap=True)
    return EXIT_CTRL_C


def _stopped(left: str, *, dispatched: bool) -> str:
    """What has become, after Ctrl-C, of the jobs that are `left`."""
    if not dispatched:
        return "the jobs go on in the background; `gpuq status` shows them, `gpuq stop` stops them"
    if not left:
        return "stopped"
    return f"stopped; queued again, to go on from their checkpoints with `gpuq run` or `gpuq start`: {left}"


class View:
    """The given jobs before a person's eyes: a live table on a terminal, else a line for each change."""

    def __init__(self, home: Home, store: Store, device: Device, ids: Sequence[int]) -> None:
        self._home = home
        self._store = store
        self._device = device
        self._watched = Watched(store, ids)
        self._console: Console = render.console()
        self._live: Live | None = None
        self._said: dict[int, str] = {}

    def live(self) -> AbstractContextManager[object]:
        if not self._console.is_terminal:
            return nullcontext()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        return self._live

    def refresh(self) -> None:
        """Nothing happens where nobody can see it any more, such as on a terminal that has closed: the jobs go on."""
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(render.status(self._report()))
            else:
                for job in self.jobs():
                    self._say(job)

    def show_final(self) -> None:
        if self._live is None:
            self.refresh()
        self._console.print(render.status(self._report()))

    def jobs(self) -> list[Job]:
        return self._watched.jobs()

    def pause(self) -> QueuePause | None:
        return self._store.queue_pause()

    def is_done(self) -> bool:
        """Whether all have ended, besides those that somebody has to resume first."""
        unfinished = [job for job in self.jobs() if job.state is not State.FINISHED]
        return len(held(unfinished, self.pause())) == len(unfinished)

    def _report(self) -> StatusReport:
        return report(self._home, self._store, self._device, datetime.now(UTC), self.jobs())

    def _say(self, job: Job) -> None:
        word = PAUSED if job.is_paused and job.state is State.QUEUED else str(job.outcome or job.state)
        if self._said.get(job.id) != word:
            self._said[job.id] = word
            why = f": {job.reason}" if job.reason and job.reason != word else ""
            self._console.print(f"{utc_now()} job {job.id} {job.name} {word}{why}", soft_wrap=True)
