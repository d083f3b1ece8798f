"""Jobs that somebody waits for, while others remove them."""

import pytest
from steps import Queue

from scheduler.errors import UnknownJobError
from scheduler.home import Home
from scheduler.requests import wait_for
from scheduler.states import Outcome, State
from scheduler.store import Store
from scheduler.watched import Watched


def test_a_job_that_was_removed_is_as_it_was_last_seen(queue: Queue, store: Store) -> None:
    ended, other = queue.finished(Outcome.TIMED_OUT), queue.submitted()
    watched = Watched(store, [ended, other])
    seen = store.job(ended)
    store.remove(ended, lambda: None)
    store.pause(other)
    assert watched.jobs() == [seen, store.job(other)]


def test_one_that_ended_unseen_before_it_was_removed_has_not_succeeded(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    watched = Watched(store, [job_id])
    queue.end(job_id, Outcome.FAILED)
    store.remove(job_id, lambda: None)
    [job] = watched.jobs()
    assert (job.state, job.outcome, job.reason) == (State.FINISHED, Outcome.CANCELLED, "removed")


def test_a_job_that_is_not_there_is_not_waited_for(store: Store) -> None:
    with pytest.raises(UnknownJobError):
        Watched(store, [7])


def test_waiting_outlasts_the_removal_of_a_job_that_has_ended(
    home: Home, queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, other = queue.finished(), queue.paused()

    def sleep(_: float) -> None:
        store.remove(ended, lambda: None)
        store.cancel(other)

    monkeypatch.setattr("scheduler.requests.time.sleep", sleep)
    assert not wait_for(home, [ended, other])
