"""A dispatcher at its post: one per state directory, from taking the lock to giving it up."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from filelock import FileLock, Timeout

from scheduler.device import Device, choose_device
from scheduler.dispatcher import TICK_S, Dispatcher
from scheduler.errors import DispatcherRunningError
from scheduler.home import Home
from scheduler.process import own_identity
from scheduler.store import Store

IDLE_S = 60.0  # with nothing left to do; the next `gpuq submit` starts a new one

log = logging.getLogger("gpuq")


class Stop:
    """SIGINT and SIGTERM as a question; the second one ends the process at once.

    Attempts have sessions of their own: they checkpoint and end even then.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
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
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DispatcherRunningError(
            "a dispatcher is running already; `gpuq status` shows it, `gpuq stop` stops it"
        ) from None
    identity = own_identity()
    store.register_dispatcher(identity)
    try:
        yield
    finally:
        store.unregister_dispatcher(identity, only_if_idle=False)
        lock.release()


def serve(
    home: Home,
    store: Store,
    device: Device,
    stop: Stop,
    *,
    is_done: Callable[[], bool],
    after_tick: Callable[[], None] = lambda: None,
) -> None:
    """Dispatch until `is_done`, or until asked to stop: then attempts checkpoint and their jobs are queued again."""
    dispatcher = Dispatcher(home, store, device)
    while not is_done() and not stop.requested.is_set():
        dispatcher.tick()
        after_tick()
        stop.requested.wait(TICK_S)
    if stop.requested.is_set():
        dispatcher.shut_down()
    else:
        dispatcher.leave()


class Idleness:
    """Whether there has been nothing to do for a while; gives up the post in the same transaction that finds it."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._since: float | None = None

    def is_done(self) -> bool:
        if self._store.has_unfinished():
            self._since = None
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= IDLE_S and self._store.unregister_dispatcher(
            own_identity(), only_if_idle=True
        )


def serve_queue(home: Home, device: str, memory_bytes: int | None) -> None:
    """Be the dispatcher until stopped, or until there has been nothing to do for a while.

    Raises DispatcherRunningError if another is.
    """
    chosen = choose_device(device, memory_bytes)
    store = Store(home.store)
    stop = Stop()
    with at_post(home, store):
        serve(home, store, chosen, stop, is_done=Idleness(store).is_done)
