"""What the store keeps of attempts, metrics, estimates and the dispatcher."""

import sqlite3
from collections.abc import Callable

import msgspec
import pytest
from builders import MiB, metrics
from steps import Queue

from jobs.run_dir import Progress
from scheduler.estimate import declared, modelled
from scheduler.process import Identity, own_identity
from scheduler.records import Attempt
from scheduler.states import Outcome
from scheduler.store import Store

HERE = own_identity()

# -- attempts ---------------------------------------------------------------------------------------------------


def live(store: Store) -> Attempt:
    [attempt] = store.live_attempts()
    return attempt


def test_an_attempt_holds_its_reservation_from_its_placement_on(queue: Queue, store: Store) -> None:
    queue.placed()
    assert live(store).reservation_bytes == 512 * MiB


def test_an_ended_attempt_holds_nothing(queue: Queue, store: Store) -> None:
    queue.end(queue.running(), Outcome.FAILED, requeue=True)
    assert store.live_attempts() == []


def test_a_running_attempt_knows_where_it_began(queue: Queue, store: Store) -> None:
    job_id = queue.placed()
    store.mark_running(job_id, 1, Progress(parameters=1000, resumed_from_step=300, steps=20_000))
    assert live(store).start_step == 300
    assert store.job(job_id).parameters == 1000


def test_the_larger_of_the_reported_and_the_final_peak_counts(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.record_metrics(job_id, 1, [metrics(1, peak_bytes=30 * MiB)], eta_s=1.0)
    queue.end(job_id, Outcome.FAILED, peak=20 * MiB)
    assert store.attempts(job_id)[0].peak_bytes == 30 * MiB


def test_a_peak_nobody_measured_is_unknown(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    queue.end(job_id, Outcome.LOST, peak=None)
    assert store.attempts(job_id)[0].peak_bytes is None


def test_a_measured_peak_is_the_largest_of_the_attempts_of_a_signature_that_succeeded(
    queue: Queue, store: Store
) -> None:
    for outcome, peak in [(Outcome.SUCCEEDED, 100), (Outcome.SUCCEEDED, 120), (Outcome.OUT_OF_MEMORY, 900)]:
        queue.end(queue.running(), outcome, peak=peak)
    other = queue.submitted()
    store.place(other, MiB, "another signature")
    queue.end(other, Outcome.SUCCEEDED, peak=800)
    assert store.measured_peak("like-this") == 120


def test_nothing_is_measured_before_something_has_succeeded(queue: Queue, store: Store) -> None:
    queue.end(queue.running(), Outcome.FAILED, peak=100)
    assert store.measured_peak("like-this") is None


# -- metrics ----------------------------------------------------------------------------------------------------


def test_metrics_show_how_far_a_job_is(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.record_metrics(job_id, 1, [metrics(1, accuracy=0.7), metrics(2, accuracy=0.6)], eta_s=80.0)
    job = store.job(job_id)
    assert (job.epoch, job.elapsed_s, job.eta_s, job.best_validation_accuracy) == (2, 20.0, 80.0, 0.7)


def test_an_epoch_that_a_resumed_job_repeats_replaces_the_first_telling(
    queue: Queue, store: Store, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    job_id = queue.running()
    store.record_metrics(job_id, 1, [metrics(1, accuracy=0.5), metrics(2, accuracy=0.9)], eta_s=1.0)
    store.record_metrics(job_id, 1, [metrics(2, accuracy=0.6)], eta_s=1.0)
    assert rows("SELECT epoch, validation_accuracy FROM metrics") == [(1, 0.5), (2, 0.6)]
    assert store.job(job_id).best_validation_accuracy == 0.6


def test_an_epoch_that_is_yet_to_be_repeated_does_not_count(queue: Queue, store: Store) -> None:
    """The job went back to the checkpoint of epoch 1: what epoch 2 reached is gone."""
    job_id = queue.running()
    store.record_metrics(job_id, 1, [metrics(1, accuracy=0.5), metrics(2, accuracy=0.9)], eta_s=1.0)
    store.record_metrics(job_id, 1, [metrics(1, accuracy=0.5)], eta_s=1.0)
    job = store.job(job_id)
    assert (job.epoch, job.best_validation_accuracy) == (1, 0.5)


def test_metrics_and_their_job_change_together_or_not_at_all(
    queue: Queue, store: Store, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    job_id = queue.running()
    unstorable = msgspec.structs.replace(metrics(2), peak_bytes=object())  # type: ignore[arg-type]
    with pytest.raises((TypeError, sqlite3.Error)):
        store.record_metrics(job_id, 1, [metrics(1), unstorable], eta_s=1.0)
    assert rows("SELECT * FROM metrics") == []
    assert store.job(job_id).epoch == 0


# -- estimates --------------------------------------------------------------------------------------------------


def test_an_estimate_is_kept_as_it_was_made(queue: Queue, store: Store) -> None:
    job_id, estimate = queue.submitted(), modelled({"parameters": 10, "activations": 90}, parameters=5)
    store.set_estimate(job_id, estimate)
    assert (store.job(job_id).estimate, store.job(job_id).parameters) == (estimate, 5)


def test_an_estimate_without_a_parameter_count_keeps_the_known_one(queue: Queue, store: Store) -> None:
    job_id = queue.submitted()
    store.set_estimate(job_id, modelled({"parameters": 10}, parameters=5))
    store.set_estimate(job_id, declared(MiB))
    assert store.job(job_id).parameters == 5


# -- who dispatches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Queue.submitted, Queue.placed, Queue.running])
def test_a_dispatcher_does_not_leave_while_there_is_anything_to_do(
    queue: Queue, store: Store, way: Callable[[Queue], int]
) -> None:
    store.register_dispatcher(HERE)
    way(queue)
    assert not store.unregister_dispatcher(HERE, only_if_idle=True)
    assert store.dispatcher() == HERE


def test_a_dispatcher_leaves_when_everything_has_ended(queue: Queue, store: Store) -> None:
    store.register_dispatcher(HERE)
    queue.finished()
    assert store.unregister_dispatcher(HERE, only_if_idle=True)
    assert store.dispatcher() is None


def test_a_dispatcher_that_is_told_to_leaves_at_once(queue: Queue, store: Store) -> None:
    store.register_dispatcher(HERE)
    queue.submitted()
    assert store.unregister_dispatcher(HERE, only_if_idle=False)


def test_a_new_dispatcher_takes_the_place_of_a_dead_one(store: Store) -> None:
    store.register_dispatcher(Identity(pid=1, start_ticks=2, boot_id="an earlier boot"))
    store.register_dispatcher(HERE)
    assert store.dispatcher() == HERE


def test_a_dispatcher_does_not_sign_off_another(store: Store) -> None:
    store.register_dispatcher(HERE)
    store.unregister_dispatcher(Identity(pid=1, start_ticks=2, boot_id=HERE.boot_id), only_if_idle=False)
    assert store.dispatcher() == HERE
