"""The queue on disk: its transitions, each a compare-and-swap with its event."""

from collections.abc import Callable

import pytest
from builders import ORIGIN, MiB, prediction, spec
from steps import Queue

from jobs.run_dir import Progress
from scheduler.errors import UnknownJobError
from scheduler.home import Home
from scheduler.process import own_identity
from scheduler.states import Outcome, State, Wish
from scheduler.store import Store

HERE = own_identity()


def state(store: Store, job_id: int) -> tuple[State, Outcome | None]:
    job = store.job(job_id)
    return job.state, job.outcome


def where(store: Store, job_id: int) -> tuple[State, Outcome | None, Wish | None]:
    return *state(store, job_id), store.job(job_id).wish


# -- submitting -------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_queued_as_it_was_asked_for(store: Store) -> None:
    wanted = spec("resv1-easy", options={"width": 32, "blocks": [3, 3, 6, 6]}, priority=3, memory="6 GiB")
    [job_id], _ = store.submit([wanted], ORIGIN)
    job = store.job(job_id)
    assert (job.spec, job.name, job.priority, job.state) == (wanted, "resv1-easy", 3, State.QUEUED)
    assert (job.submitted_from, job.git_commit, job.git_dirty) == ("/home/me/study", "c0ffee", False)


def test_ids_count_up_in_the_order_of_submission(store: Store) -> None:
    assert store.submit([spec("a"), spec("b")], ORIGIN)[0] == [1, 2]
    assert [job.name for job in store.jobs()] == ["a", "b"]


def test_a_batch_is_queued_as_a_whole_or_not_at_all(store: Store) -> None:
    unstorable = spec("b", options={"width": object()})
    with pytest.raises(TypeError):
        store.submit([spec("a"), unstorable], ORIGIN)
    assert store.jobs() == []


def test_a_refused_batch_leaves_no_gap_in_the_ids(store: Store) -> None:
    with pytest.raises(TypeError):
        store.submit([spec("a"), spec("b", options={"width": object()})], ORIGIN)
    assert store.submit([spec("a")], ORIGIN)[0] == [1]


def test_submitting_tells_which_dispatcher_was_registered(store: Store) -> None:
    assert store.submit([spec()], ORIGIN)[1] is None
    store.register_dispatcher(HERE)
    assert store.submit([spec()], ORIGIN)[1] == HERE


def test_an_unknown_id_is_refused_by_name(store: Store) -> None:
    with pytest.raises(UnknownJobError, match="no job 7; `gpuq status` lists them"):
        store.jobs([7])


def test_the_given_jobs_come_in_the_given_order(queue: Queue, store: Store) -> None:
    first, second = queue.submitted(), queue.submitted()
    assert [job.id for job in store.jobs([second, first])] == [second, first]


# -- every verb from every state --------------------------------------------------------------------------------

QUEUED, STARTING, RUNNING = (State.QUEUED, None), (State.STARTING, None), (State.RUNNING, None)
FAILED, CANCELLED = (State.FINISHED, Outcome.FAILED), (State.FINISHED, Outcome.CANCELLED)
SUCCEEDED = (State.FINISHED, Outcome.SUCCEEDED)

WAYS: dict[str, Callable[[Queue], int]] = {
    "queued": Queue.submitted,
    "paused": Queue.paused,
    "starting": Queue.placed,
    "running": Queue.running,
    "failed": Queue.finished,
    "succeeded": lambda queue: queue.finished(Outcome.SUCCEEDED),
}
VERBS: dict[str, Callable[[Store, int], object]] = {
    "place": lambda store, job_id: store.place(job_id, MiB, prediction()),
    "run": lambda store, job_id: store.mark_running(
        job_id, 1, Progress(parameters=1, resumed_from_step=0, steps=20_000)
    ),
    "cancel": lambda store, job_id: store.cancel(job_id),
    "retry": lambda store, job_id: store.retry(job_id),
    "pause": lambda store, job_id: store.pause(job_id),
    "resume": lambda store, job_id: store.resume(job_id),
    "finish": lambda store, job_id: store.finish_queued(job_id, Outcome.FAILED, "cannot fit"),
}
OUTCOMES = {
    # from:      place     run      cancel     retry      pause      resume     finish
    "queued": (STARTING, QUEUED, CANCELLED, QUEUED, QUEUED, QUEUED, FAILED),
    "paused": (QUEUED, QUEUED, CANCELLED, QUEUED, QUEUED, QUEUED, FAILED),
    "starting": (STARTING, RUNNING, STARTING, STARTING, STARTING, STARTING, STARTING),
    "running": (RUNNING, RUNNING, RUNNING, RUNNING, RUNNING, RUNNING, RUNNING),
    "failed": (FAILED, FAILED, FAILED, QUEUED, FAILED, FAILED, FAILED),
    "succeeded": (SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED),
}


@pytest.mark.parametrize(
    ("source", "verb", "target"),
    [
        (source, verb, target)
        for source, targets in OUTCOMES.items()
        for verb, target in zip(VERBS, targets, strict=True)
    ],
)
def test_each_verb_moves_a_job_only_from_where_it_may(
    queue: Queue, store: Store, source: str, verb: str, target: tuple[State, Outcome | None]
) -> None:
    job_id = WAYS[source](queue)
    VERBS[verb](store, job_id)
    assert state(store, job_id) == target


@pytest.mark.parametrize("source", ["starting", "running"])
@pytest.mark.parametrize("requeue", [True, False])
def test_an_ended_attempt_queues_or_finishes_its_job(queue: Queue, store: Store, source: str, requeue: bool) -> None:
    job_id = WAYS[source](queue)
    queue.end(job_id, Outcome.FAILED, requeue=requeue)
    assert state(store, job_id) == (QUEUED if requeue else FAILED)


@pytest.mark.parametrize("source", OUTCOMES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_state_or_a_wish_changes_with_exactly_one_event_or_not_at_all(
    queue: Queue, store: Store, rows: Callable[[str], list[tuple[object, ...]]], source: str, verb: str
) -> None:
    job_id = WAYS[source](queue)
    before, events = where(store, job_id), len(rows("SELECT * FROM events"))
    VERBS[verb](store, job_id)
    written = len(rows("SELECT * FROM events")) - events
    assert written == (where(store, job_id) != before)


def test_the_events_tell_a_jobs_story(
    queue: Queue, store: Store, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    job_id = queue.running()
    queue.end(job_id, Outcome.LOST, requeue=True, reason="power cut")
    store.cancel(job_id)
    store.retry(job_id)
    assert rows("SELECT kind, detail FROM events ORDER BY id") == [
        ("submitted", None),
        ("placed", str(512 * MiB)),
        ("running", None),
        ("requeued", "power cut"),
        ("finished", "cancelled: cancelled before it started"),
        ("retried", None),
    ]


# -- compare and swap -------------------------------------------------------------------------------------------


def test_only_one_of_two_dispatchers_can_place_a_job(queue: Queue, store: Store, home: Home) -> None:
    job_id, other = queue.submitted(), Store(home.store)
    assert (store.place(job_id, MiB, prediction("ours")), other.place(job_id, 2 * MiB, prediction("theirs"))) == (
        1,
        None,
    )
    assert [(one.number, one.signature) for one in store.attempts(job_id)] == [(1, "ours")]
    assert store.job(job_id).reservation_bytes == MiB
    other.close()


def test_whoever_ends_an_attempt_second_changes_nothing(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    [live] = store.live_attempts()
    store.end_attempt(live, Outcome.SUCCEEDED, None, requeue=False, exit_code=0, peak_bytes=MiB, test_accuracy=0.9)
    once = store.job(job_id), store.attempts(job_id)
    store.end_attempt(live, Outcome.LOST, "vanished", requeue=True, exit_code=None, peak_bytes=None)
    assert (store.job(job_id), store.attempts(job_id)) == once


def test_an_attempt_that_ends_late_leaves_the_next_one_alone(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    [first] = store.live_attempts()
    queue.end(job_id, Outcome.LOST, requeue=True)
    store.place(job_id, MiB, prediction())
    store.end_attempt(first, Outcome.SUCCEEDED, None, requeue=False, exit_code=0, peak_bytes=None)
    assert state(store, job_id) == STARTING


def test_a_reason_is_only_given_to_a_job_that_waits(queue: Queue, store: Store) -> None:
    waiting, live, ended = queue.submitted(), queue.placed(), queue.finished()
    for job_id in (waiting, live, ended):
        store.set_reason(job_id, "needs 6 GiB")
    assert [store.job(job_id).reason for job_id in (waiting, live, ended)] == ["needs 6 GiB", None, "why"]


def test_a_placed_job_no_longer_says_why_it_waited(queue: Queue, store: Store) -> None:
    job_id = queue.submitted()
    store.set_reason(job_id, "needs 6 GiB")
    store.place(job_id, MiB, prediction())
    assert store.job(job_id).reason is None


# -- cancelling and retrying ------------------------------------------------------------------------------------


def test_cancelling_a_queued_job_says_so(queue: Queue, store: Store) -> None:
    job = store.cancel(queue.submitted())
    assert (job.outcome, job.reason) == (Outcome.CANCELLED, "cancelled before it started")


@pytest.mark.parametrize("way", ["starting", "running"])
def test_cancelling_a_live_job_is_a_wish(queue: Queue, store: Store, way: str) -> None:
    assert store.cancel(WAYS[way](queue)).wish is Wish.CANCEL


def test_cancelling_a_finished_job_leaves_it_as_it_is(queue: Queue, store: Store) -> None:
    job = store.job(queue.finished())
    assert store.cancel(job.id) == job


def test_a_wish_to_cancel_that_comes_at_the_last_moment_is_not_forgotten(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.cancel(job_id)
    queue.end(job_id, Outcome.STOPPED, requeue=True)
    assert state(store, job_id) == CANCELLED
    assert store.attempts(job_id)[-1].outcome is Outcome.STOPPED


def test_a_wish_does_not_outlive_the_end_of_its_job(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.cancel(job_id)
    queue.end(job_id, Outcome.CANCELLED)
    store.retry(job_id)
    assert store.job(job_id).wish is None


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.OUT_OF_MEMORY, Outcome.CANCELLED, Outcome.LOST])
def test_a_job_that_did_not_succeed_can_be_retried(queue: Queue, store: Store, outcome: Outcome) -> None:
    job_id = queue.finished(outcome)
    assert store.retry(job_id)
    job = store.job(job_id)
    assert (job.state, job.outcome, job.reason, job.finished_at) == (State.QUEUED, None, None, None)


@pytest.mark.parametrize("way", ["queued", "running", "succeeded"])
def test_a_job_that_goes_on_or_succeeded_cannot_be_retried(queue: Queue, store: Store, way: str) -> None:
    assert not store.retry(WAYS[way](queue))


def test_a_retried_job_keeps_its_attempts_and_counts_on(queue: Queue, store: Store) -> None:
    job_id = queue.finished()
    store.retry(job_id)
    assert store.place(job_id, MiB, prediction()) == 2
    assert [one.outcome for one in store.attempts(job_id)] == [Outcome.FAILED, None]
