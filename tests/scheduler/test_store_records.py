"""What the store keeps of attempts, metrics, estimates and the dispatcher."""

import sqlite3
from collections.abc import Callable
from itertools import count

import msgspec
import pytest
from builders import STEPS, MiB, metrics, prediction
from steps import Queue

from jobs.run_dir import Progress
from scheduler.estimate import Basis, History, declared, modelled
from scheduler.margin import WINDOW
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


def test_the_lines_of_earlier_attempts_tell_nothing_of_this_ones_peak(queue: Queue, store: Store) -> None:
    job_id = queue.placed()
    store.mark_running(job_id, 1, Progress(parameters=1000, resumed_from_step=2 * STEPS, steps=20_000))
    lines = [metrics(2, peak_bytes=90 * MiB), metrics(3, peak_bytes=70 * MiB)]
    store.record_metrics(job_id, 1, lines, eta_s=1.0)
    assert live(store).peak_bytes == 70 * MiB


# -- what attempts tell of memory -------------------------------------------------------------------------------


def ran(
    queue: Queue,
    peak: int | None,
    signature: str = "like-this",
    outcome: Outcome = Outcome.SUCCEEDED,
    *,
    shows_peak: bool = True,
    **prediction_fields: object,
) -> None:
    """An attempt of another job ends."""
    job_id = queue.submitted()
    queue.store.place(job_id, MiB, prediction(signature, **prediction_fields))
    queue.end(job_id, outcome, peak=peak, shows_peak=shows_peak)


def history(store: Store) -> History:
    return store.history("cpu", "a machine")


def test_nothing_is_known_of_a_device_on_which_nothing_ran(store: Store) -> None:
    assert history(store) == History(ratios={Basis.MEASURED: [], Basis.MODELLED: []})


def test_the_peak_of_a_signature_is_the_largest_of_the_attempts_that_showed_theirs(queue: Queue, store: Store) -> None:
    ran(queue, 100)
    ran(queue, 120, outcome=Outcome.CANCELLED)
    ran(queue, 900, shows_peak=False, outcome=Outcome.LOST)
    ran(queue, 800, "another")
    assert history(store).peak_bytes == {"like-this": 120, "another": 800}


def test_a_peak_that_nobody_measured_tells_nothing(queue: Queue, store: Store) -> None:
    ran(queue, None)
    assert history(store).peak_bytes == {}


def test_running_out_of_memory_is_no_peak_but_a_bound(queue: Queue, store: Store) -> None:
    for least in (500, 700):
        ran(queue, least, outcome=Outcome.OUT_OF_MEMORY, shows_peak=False)
    assert (history(store).peak_bytes, history(store).exceeded_bytes) == ({}, {"like-this": 700})


def test_bounds_and_peaks_of_a_signature_are_kept_apart(queue: Queue, store: Store) -> None:
    ran(queue, 500, outcome=Outcome.OUT_OF_MEMORY, shows_peak=True)
    ran(queue, 400)
    known = history(store)
    assert (known.peak_bytes, known.exceeded_bytes) == ({"like-this": 400}, {"like-this": 500})


@pytest.mark.parametrize("device", [("cpu", "another machine"), ("cuda", "a machine")])
def test_another_device_is_another_history(queue: Queue, store: Store, device: tuple[str, str]) -> None:
    ran(queue, 100, predicted_bytes=100)
    known = store.history(*device)
    assert (known.peak_bytes, known.ratios[Basis.MODELLED]) == ({}, [])


def test_ratios_are_measured_over_predicted_bytes_by_basis(queue: Queue, store: Store) -> None:
    for signature, peak in [("first", 90), ("second", 110)]:
        ran(queue, peak, signature, predicted_bytes=100)
    ran(queue, 105, predicted_bytes=100, basis=Basis.MEASURED)
    ran(queue, 999, predicted_bytes=100, basis=Basis.DECLARED)
    ratios = {basis: sorted(found) for basis, found in history(store).ratios.items()}
    assert ratios == {Basis.MODELLED: [0.9, 1.1], Basis.MEASURED: [1.05]}


def test_jobs_that_are_alike_make_one_ratio_of_a_model_the_largest(queue: Queue, store: Store) -> None:
    for peak in (101, 103, 102):
        ran(queue, peak, predicted_bytes=100)
    assert history(store).ratios[Basis.MODELLED] == [1.03]


def test_every_repetition_makes_a_ratio_of_a_measured_peak(queue: Queue, store: Store) -> None:
    for peak in (98, 103, 100):
        ran(queue, peak, predicted_bytes=100, basis=Basis.MEASURED)
    assert sorted(history(store).ratios[Basis.MEASURED]) == [0.98, 1.0, 1.03]


def test_a_job_that_ran_out_of_memory_counts_with_what_it_needed_in_the_end(queue: Queue, store: Store) -> None:
    job_id = queue.submitted()
    for outcome, peak in [(Outcome.OUT_OF_MEMORY, 115), (Outcome.SUCCEEDED, 130)]:
        store.place(job_id, MiB, prediction(predicted_bytes=100, basis=Basis.MEASURED))
        queue.end(job_id, outcome, peak=peak, requeue=outcome is Outcome.OUT_OF_MEMORY, shows_peak=True)
    assert history(store).ratios[Basis.MEASURED] == [1.3]


def test_until_then_it_counts_with_what_it_needed_at_least(queue: Queue, store: Store) -> None:
    ran(queue, 115, outcome=Outcome.OUT_OF_MEMORY, shows_peak=False, predicted_bytes=100)
    assert history(store).ratios[Basis.MODELLED] == [1.15]


def test_only_the_latest_ratios_count_the_latest_first(store: Store) -> None:
    ticks = count()
    ticking = Queue(Store(store.path, now=lambda: f"{next(ticks):09d}"))
    for number in range(WINDOW + 5):
        ran(ticking, 1000 + number, str(number), predicted_bytes=1000)
    ratios = history(store).ratios[Basis.MODELLED]
    ticking.store.close()
    assert ratios == [(1000 + number) / 1000 for number in reversed(range(5, WINDOW + 5))]


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
