"""`--max-failures`: so many jobs that have failed pause the queue."""

import pytest
from bench import Bench
from builders import prediction
from steps import Queue

from jobs.run_dir import ExitCode
from scheduler.breaker import Breaker
from scheduler.dispatcher import Dispatcher
from scheduler.records import QueuePause
from scheduler.states import Outcome
from scheduler.store import Store


def failing(queue: Queue, *outcomes: Outcome) -> None:
    for outcome in outcomes:
        queue.finished(outcome)


def tripped(store: Store, breaker: Breaker) -> QueuePause | None:
    breaker.check()
    return store.queue_pause()


def test_the_queue_is_paused_at_the_given_number_of_failures_and_not_before(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, 2)
    queue.submitted()
    failing(queue, Outcome.FAILED)
    assert tripped(store, breaker) is None
    failing(queue, Outcome.OUT_OF_MEMORY)
    pause = tripped(store, breaker)
    assert pause is not None
    assert (pause.reason, pause.running_go_on) == ("2 jobs have failed (--max-failures 2)", True)


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (Outcome.FAILED, True),
        (Outcome.OUT_OF_MEMORY, True),
        (Outcome.LOST, True),
        (Outcome.SUCCEEDED, False),
        (Outcome.CANCELLED, False),
        (Outcome.TIMED_OUT, False),
    ],
)
def test_what_counts_is_that_something_went_wrong(queue: Queue, store: Store, outcome: Outcome, counts: bool) -> None:
    breaker = Breaker(store, 1)
    queue.submitted()
    failing(queue, outcome)
    assert (tripped(store, breaker) is not None) == counts


def test_attempts_that_fail_are_not_jobs_that_fail(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, 1)
    job_id = queue.running()
    queue.end(job_id, Outcome.FAILED, requeue=True)
    assert tripped(store, breaker) is None


def test_a_job_that_fails_twice_counts_once(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, 2)
    queue.submitted()
    job_id = queue.finished(Outcome.FAILED)
    store.retry(job_id)
    store.place(job_id, 1, prediction())
    queue.end(job_id, Outcome.FAILED)
    assert tripped(store, breaker) is None


def test_what_failed_before_the_dispatcher_started_does_not_count(queue: Queue, store: Store) -> None:
    failing(queue, Outcome.FAILED)
    queue.submitted()
    assert tripped(store, Breaker(store, 1)) is None


def test_what_failed_before_a_resume_does_not_count_again(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, 1)
    queue.submitted()
    runs_on = queue.running()
    failing(queue, Outcome.FAILED)
    assert tripped(store, breaker) is not None
    queue.end(runs_on, Outcome.FAILED)
    assert tripped(store, breaker) is not None
    store.resume_queue()
    assert tripped(store, breaker) is None


def test_nothing_is_paused_when_nothing_is_left_to_hold(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, 1)
    failing(queue, Outcome.FAILED)
    assert tripped(store, breaker) is None
    queue.submitted()
    assert tripped(store, breaker) is not None


def test_failures_count_after_the_latest_events_have_been_removed(queue: Queue, store: Store) -> None:
    queue.submitted()
    latest = queue.finished(Outcome.SUCCEEDED)
    breaker = Breaker(store, 1)
    store.remove(latest, before_commit=lambda: None)
    failing(queue, Outcome.FAILED)
    assert tripped(store, breaker) is not None


def test_any_number_may_fail_unless_one_is_given(queue: Queue, store: Store) -> None:
    breaker = Breaker(store, None)
    queue.submitted()
    failing(queue, *[Outcome.FAILED] * 5)
    assert tripped(store, breaker) is None


@pytest.fixture
def strict(bench: Bench) -> Bench:
    """A bench whose dispatcher stands one failure."""
    bench.dispatcher = Dispatcher(
        bench.home,
        bench.store,
        bench.machine,
        supervisor=bench.engine,  # type: ignore[arg-type]
        tracer=bench.estimator,  # type: ignore[arg-type]
        max_failures=1,
    )
    return bench


def test_a_job_that_can_never_fit_keeps_the_others_of_its_tick_from_starting(strict: Bench) -> None:
    bench, _, good = strict, strict.submit(memory="2 GiB"), strict.submit()
    bench.tick()
    assert bench.store.attempts(good) == []


def test_the_dispatcher_starts_nothing_more_and_lets_go_on_what_runs(strict: Bench) -> None:
    bench = strict
    bad, good = bench.started(memory="500 MiB"), bench.started(memory="500 MiB")
    waiting = bench.submit(memory="500 MiB")
    bench.end(bad, exit_code=ExitCode.REFUSED)
    bench.tick()
    bench.tick()
    assert bench.starting() == [good]
    assert bench.engine.asked_to_stop == set()
    assert bench.store.attempts(waiting) == []
