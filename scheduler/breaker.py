"""The fail-fast breaker (`--max-failures`): a mistake that all jobs share should not cost the night."""

from scheduler.store import Store


class Breaker:
    """Pauses the whole queue once so many jobs have failed since the dispatcher started, or since the pause.

    Running jobs go on. It is the pause that stops the queue, so what failed before a `gpuq resume --all`, or while
    the queue was paused, does not stop it again.
    """

    def __init__(self, store: Store, max_failures: int | None) -> None:
        """`max_failures` is None where any number may fail."""
        self._store = store
        self._max_failures = max_failures
        self._since = store.last_event()

    def check(self) -> None:
        """Look for failures, and pause the queue if there were enough."""
        if self._max_failures is None:
            return
        if self._store.queue_pause() is None:
            failed = self._store.failed_since(self._since)
            if failed < self._max_failures or not self._store.startable():
                return  # with nothing left to hold, the pause would only be in the way of what comes later
            jobs = "1 job has" if failed == 1 else f"{failed} jobs have"
            self._store.pause_queue(f"{jobs} failed (--max-failures {self._max_failures})", running_go_on=True)
        self._since = self._store.last_event()
