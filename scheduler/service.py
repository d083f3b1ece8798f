"""A dispatcher at its post: one per state directory, from taking the lock to giving it up."""

import contextlib
import logging
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from scheduler import disk, errors
from scheduler.background import POLL_S, running_dispatcher
from scheduler.copies import leave_copies
from scheduler.device import Device, choose_device
from scheduler.dispatcher import TICK_S, Dispatcher
from scheduler.errors import DispatcherRunningError
from scheduler.home import Home
from scheduler.log import LossyFile
from scheduler.process import own_identity
from scheduler.states import State
from scheduler.store import Store

TICK_SHARE = 5  # a queue of thousands makes ticks long; then they come less often …
LONGEST_DELAY_S = 10.0  # … but not by much if one took minutes, as where memory ran short
RETRY_S = 5.0  # after a tick that failed
IDLE_S = 60.0  # with nothing left to do; the next `gpuq submit` starts a new one

log = logging.getLogger("gpuq")


class Stop:
    """SIGINT and SIGTERM as a question; the second one ends the process at once.

    Attempts have sessions of their own: they checkpoint and end even then. A terminal that closes is a stop, too, but
    not for who was told not to mind it, by nohup(1).
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._request)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        if self.requested.is_set():
            sys.exit(128 + number)
        self.requested.set()


@contextmanager
def at_post(home: Home, store: Store) -> Iterator[None]:
    """Hold the dispatcher's lock, which the kernel frees however the process ends, and be registered as its holder.

    Raises DispatcherRunningError, and DamagedStoreError before anything is started from a damaged store.
    """
    store.check(quick=True)
    lock = FileLock(home.dispatcher_lock, mode=0o600)
    while not _acquired(lock):
        if running_dispatcher(store) is not None:
            raise DispatcherRunningError("a dispatcher is running already; `gpuq stop` stops it")
        time.sleep(POLL_S)  # another is just taking up the post, or giving it up
    store.register_dispatcher(own_identity())
    try:
        yield
    finally:
        _give_up_post(store)
        lock.release()


def _give_up_post(store: Store) -> None:
    with contextlib.suppress(sqlite3.OperationalError):  # of a full disk: soon nobody answers to this identity any more
        store.unregister_dispatcher(own_identity(), only_if_idle=False)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def serve(
    home: Home,
    store: Store,
    device: Device,
    stop: Stop,
    *,
    is_done: Callable[[], bool],
    after_tick: Callable[[], None] = lambda: None,
    max_failures: int | None = None,
) -> None:
    """Dispatch until `is_done`, or until asked to stop: then attempts checkpoint and their jobs are queued again."""
    dispatcher = Dispatcher(home, store, device, max_failures=max_failures)
    is_full = False
    with logged(home):
        _copy_queued(home, store)
        while not is_done() and not stop.requested.is_set():
            began = time.monotonic()
            try:
                dispatcher.tick()
                is_full = False
                delay_s = min(max(TICK_S, TICK_SHARE * (time.monotonic() - began)), LONGEST_DELAY_S)
            except Exception as error:  # the night is long: what fails now, such as a full disk, may work later
                is_full = _log_trouble(home, error, was_full=is_full)
                delay_s = RETRY_S
            after_tick()
            stop.requested.wait(delay_s)
        if stop.requested.is_set():
            log.info("asked to stop: attempts write a checkpoint and end")
            _give_up_post(store)  # whoever queues jobs from now on starts another, which waits for our lock
            dispatcher.shut_down()
        else:
            dispatcher.leave()


def _copy_queued(home: Home, store: Store) -> None:
    """What submits have not left of queued jobs, or a power cut not kept."""
    try:
        leave_copies(home, (job for job in store.jobs() if job.state is State.QUEUED))
    except (OSError, sqlite3.Error) as error:
        log.warning("queued jobs cannot be copied beside the store: %s", error)


def _log_trouble(home: Home, error: Exception, *, was_full: bool) -> bool:
    """Log why a tick failed; that the disk is full once, lest the log takes what room there is. Whether it is."""
    is_full = errors.is_full(error)
    if not is_full:
        log.error("a tick failed; trying again in %g s", RETRY_S, exc_info=error)
    elif not was_full:
        log.error("%s; the queue goes on when there is", disk.look(home).error or f"no room: {error}")
    return is_full


class LossyHandler(logging.Handler):
    """A line for each record, in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._file = LossyFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.write(f"{self.format(record)}\n".encode(errors="replace"))

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def logged(home: Home) -> Iterator[None]:
    """What the dispatcher does, in its log."""
    with contextlib.closing(LossyHandler(home.dispatcher_log)) as handler:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)


class Idleness:
    """Whether there has been nothing to do for a while; gives up the post in the same transaction that finds it."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._since: float | None = None

    def is_done(self) -> bool:
        if self._store.has_work():
            self._since = None
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= IDLE_S and self._store.unregister_dispatcher(
            own_identity(), only_if_idle=True
        )


def serve_queue(home: Home, device: str, memory_bytes: int | None, max_failures: int | None = None) -> None:
    """Be the dispatcher until stopped, or until there has been nothing to do for a while.

    Raises DispatcherRunningError if another is.
    """
    chosen = choose_device(device, memory_bytes)
    while disk.look(home).error is not None:  # and nobody can be told: `gpuq status` sees it by itself
        time.sleep(RETRY_S)
    store = Store(home.store)
    stop = Stop()
    with at_post(home, store):
        serve(home, store, chosen, stop, is_done=Idleness(store).is_done, max_failures=max_failures)
