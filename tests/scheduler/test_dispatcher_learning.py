"""What the dispatcher learns from attempts that end, and does with jobs that wait."""

import pytest
from bench import Bench
from builders import MiB, metrics, prediction
from steps import Queue

from jobs.run_dir import ExitCode, Failure, KilledFor, append_line, write_record
from jobs.trace_messages import Reply
from scheduler.estimate import Basis
from scheduler.margin import ENOUGH
from scheduler.states import Outcome


def traced(bench: Bench, *job_ids: int, size_mib: int = 100) -> None:
    """The tracer answers, and the next tick places what fits."""
    bench.tick()
    components = {"all": size_mib * MiB}
    bench.estimator.answers = {key: Reply(key=key, components=components, parameters=5) for key in job_ids}
    bench.tick()


def first_of_a_kind(bench: Bench) -> int:
    """A job that was traced and started."""
    job_id = bench.submit(memory=None)
    traced(bench, job_id)
    return job_id


def its_like(bench: Bench) -> int:
    """A job like the first, submitted after that ended."""
    job_id = bench.submit(memory=None, name="the same again")
    bench.tick()
    return job_id


def evaluated(bench: Bench, job_id: int, epoch: int, start_step: int = 0) -> None:
    """Its worker trains from a step on to the end of an epoch, which held 80 MiB."""
    bench.begin(job_id, step=start_step)
    append_line(bench.home.run_dir(job_id).metrics, metrics(epoch, peak_bytes=80 * MiB))
    bench.tick()


def ran_out(bench: Bench, job_id: int, held_mib: int = 0) -> None:
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY, resident_peak_bytes=held_mib * MiB)
    bench.tick()


# -- what ended attempts tell -----------------------------------------------------------------------------------


def test_an_attempt_keeps_what_was_predicted_of_it(bench: Bench) -> None:
    attempt = bench.attempt(first_of_a_kind(bench))
    assert (attempt.predicted_bytes, attempt.basis) == (100 * MiB, Basis.MODELLED)
    assert (attempt.device_kind, attempt.device_name) == ("cpu", "a machine")


def test_a_job_cancelled_after_an_evaluation_has_measured_its_memory(bench: Bench) -> None:
    first = first_of_a_kind(bench)
    evaluated(bench, first, epoch=1)
    bench.store.cancel(first)
    bench.end(first, exit_code=ExitCode.STOPPED, resident_peak_bytes=90 * MiB)
    bench.tick()
    assert bench.launch(its_like(bench)).reservation_bytes == 99 * MiB


def test_one_cancelled_before_has_not(bench: Bench) -> None:
    first = first_of_a_kind(bench)
    bench.begin(first)
    bench.store.cancel(first)
    bench.end(first, exit_code=ExitCode.STOPPED, resident_peak_bytes=90 * MiB)
    bench.tick()
    like = its_like(bench)
    assert (bench.attempt(like).basis, bench.launch(like).reservation_bytes) == (Basis.MODELLED, 115 * MiB)


def test_what_earlier_attempts_evaluated_does_not_count_for_one_that_was_lost_at_once(bench: Bench) -> None:
    first = first_of_a_kind(bench)
    evaluated(bench, first, epoch=1)
    bench.end(first, signal=9)
    bench.tick()
    bench.begin(first, step=100)
    bench.end(first, signal=9, resident_peak_bytes=900 * MiB)
    bench.tick()
    assert [one.shows_peak for one in bench.store.attempts(first)] == [True, False, False]


def test_an_attempt_that_ran_out_of_memory_needed_at_least_what_it_asked_for(bench: Bench) -> None:
    """Somebody else's memory was in the way: it had not come to its reservation of 115 MiB."""
    job_id = first_of_a_kind(bench)
    failure = Failure(kind="OutOfMemoryError", message="out of memory", requested_bytes=20 * MiB)
    write_record(bench.files(job_id).failure, failure)
    bench.end(job_id, exit_code=ExitCode.OUT_OF_MEMORY, resident_peak_bytes=60 * MiB)
    bench.tick()
    assert bench.store.attempts(job_id)[0].peak_bytes == 80 * MiB


# -- what that changes for jobs that wait -----------------------------------------------------------------------


def learn(bench: Bench, ratio: float) -> None:
    """As many different networks as it takes have used so much of what was predicted."""
    queue = Queue(bench.store)
    for number in range(ENOUGH):
        job_id = queue.submitted()
        bench.store.place(job_id, MiB, prediction(f"network {number}", predicted_bytes=100 * MiB))
        queue.end(job_id, Outcome.SUCCEEDED, peak=int(ratio * 100) * MiB, shows_peak=True)


def test_a_job_is_placed_with_the_margin_that_its_device_has_taught(bench: Bench) -> None:
    learn(bench, 1.05)
    assert bench.launch(first_of_a_kind(bench)).reservation_bytes == 105 * MiB


def test_a_job_that_waits_gets_the_margin_learned_meanwhile(bench: Bench) -> None:
    running, waiting = bench.submit(memory="950 MiB"), bench.submit(memory=None)
    traced(bench, waiting)
    assert bench.job(waiting).reason == "needs 115 MiB, 74.0 MiB unreserved"
    learn(bench, 1.05)
    bench.end(running, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.launch(waiting).reservation_bytes == 105 * MiB
    assert bench.job(waiting).estimate.margin == pytest.approx(0.05)  # type: ignore[union-attr]


def test_another_device_has_taught_nothing(bench: Bench) -> None:
    queue = Queue(bench.store)
    for number in range(ENOUGH):
        job_id = queue.submitted()
        bench.store.place(job_id, MiB, prediction(f"network {number}", device_name="another", predicted_bytes=100))
        queue.end(job_id, Outcome.SUCCEEDED, peak=130, shows_peak=True)
    assert bench.launch(first_of_a_kind(bench)).reservation_bytes == 115 * MiB


def test_a_job_that_waits_does_not_run_out_of_memory_as_its_like_did(bench: Bench) -> None:
    first, second = bench.submit(memory=None), bench.submit(memory=None)
    traced(bench, first, size_mib=500)
    ran_out(bench, first, held_mib=575)
    assert bench.launch(first).reservation_bytes == 863 * MiB
    assert bench.job(second).reason == "needs 863 MiB, 161 MiB unreserved"


def test_a_job_stopped_after_it_ran_out_of_memory_keeps_the_larger_reservation(bench: Bench) -> None:
    job_id = bench.started(memory="100 MiB")
    ran_out(bench, job_id)
    bench.end(job_id, exit_code=ExitCode.STOPPED, stop_requested=True)
    bench.tick()
    assert bench.launch(job_id).number == 3
    assert bench.launch(job_id).reservation_bytes == 150 * MiB


def test_jobs_are_traced_while_the_device_cannot_be_read(bench: Bench) -> None:
    bench.machine.error = "GPU 0 cannot be read"
    job_id = bench.submit(memory=None)
    bench.tick()
    assert job_id in bench.estimator.pending
