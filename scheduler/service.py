"""A dispatcher at its post: one per state directory, from taking the lock to giving it up."""

import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from filelock import FileLock, Timeout

from jobs.run_dir import open_private
from scheduler.background import POLL_S, running_dispatcher
from scheduler.device import Device, choose_device
from scheduler.dispatcher import TICK_S, Dispatcher
from scheduler.errors import DispatcherRunningError
from scheduler.home import Home
from scheduler.process import own_identity
from scheduler.store import Store

TICK_SHARE = 5  # a queue of thousands makes ticks long; then they come less often
RETRY_S = 5.0  # after a tick that failed
IDLE_S = 60.0  # with nothing left to do; the next `gpuq submit` starts a new one

log = logging.getLogger("gpuq")


class Stop:
    """SIGINT and SIGTERM as a question; the second one ends the process at once.

    Attempts have sessions of their own: they checkpoint and end even then. A terminal that closes is a stop, too.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        if self.requested.is_set():
            sys.exit(128 + number)
        self.requested.set()


@contextmanager
def at_post(home: Home, store: Store) -> Iterator[None]:
    """Hold the dispatcher's lock, which the kernel frees however the process ends, and be registered as its holder.

    Raises DispatcherRunningError.
    """
    lock = FileLock(home.dispatcher_lock, mode=0o600)
    while not _acquired(lock):
        if running_dispatcher(store) is not None:
            raise DispatcherRunningError("a dispatcher is running already; `gpuq stop` stops it")
        time.sleep(POLL_S)  # another is just taking up the post, or giving it up
    identity = own_identity()
    store.register_dispatcher(identity)
    try:
        yield
    finally:
        store.unregister_dispatcher(identity, only_if_idle=False)
        lock.release()


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
    with logged(home):
        while not is_done() and not stop.requested.is_set():
            began = time.monotonic()
            try:
                dispatcher.tick()
                delay_s = max(TICK_S, TICK_SHARE * (time.monotonic() - began))
            except Exception:  # the night is long: what fails now, such as a full disk, may work later
                log.exception("a tick failed; trying again in %g s", RETRY_S)
                delay_s = RETRY_S
            after_tick()
            stop.requested.wait(delay_s)
        if stop.requested.is_set():
            log.info("asked to stop: attempts write a checkpoint and end")
            dispatcher.shut_down()
        else:
            dispatcher.leave()


@contextmanager
def logged(home: Home) -> Iterator[None]:
    """What the dispatcher does, in its log."""
    with open_private(home.dispatcher_log, "ab") as file:
        handler = logging.StreamHandler(io.TextIOWrapper(file, write_through=True))
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
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
    store = Store(home.store)
    stop = Stop()
    with at_post(home, store):
        serve(home, store, chosen, stop, is_done=Idleness(store).is_done, max_failures=max_failures)
