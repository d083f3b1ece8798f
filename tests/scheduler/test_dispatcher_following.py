"""What a tick of the dispatcher makes of attempts that live and end, and how dispatchers take turns."""

import pytest
from bench import Bench
from builders import STEPS, GiB, MiB, ended, metrics

from jobs.run_dir import (
    ExitCode,
    Failure,
    KilledFor,
    Metrics,
    Peak,
    append_line,
    drop_lines_after,
    write_record,
)
from scheduler.states import Outcome, State

# -- following --------------------------------------------------------------------------------------------------


def test_a_job_runs_once_its_worker_trains(bench: Bench) -> None:
    job_id = bench.started()
    bench.tick()
    assert (bench.job(job_id).state, bench.attempt(job_id).pid) == (State.STARTING, 4300)
    bench.begin(job_id, step=300)
    bench.tick()
    assert (bench.job(job_id).state, bench.attempt(job_id).start_step) == (State.RUNNING, 300)
    assert bench.job(job_id).parameters == 1000


def test_epochs_become_progress(bench: Bench) -> None:
    job_id = bench.started(epochs=10)
    bench.begin(job_id)
    for epoch, accuracy in [(1, 0.5), (2, 0.7), (3, 0.6)]:
        append_line(bench.home.run_dir(job_id).metrics, metrics(epoch, accuracy=accuracy, peak_bytes=epoch * MiB))
        bench.tick()
    job = bench.job(job_id)
    assert (job.epoch, job.best_validation_accuracy, job.elapsed_s, job.eta_s) == (3, 0.7, 30.0, 70.0)
    assert (job.step, job.steps) == (300, 1000)
    assert bench.attempt(job_id).peak_bytes == 3 * MiB


def test_half_a_line_of_metrics_waits_for_its_other_half(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    path = bench.home.run_dir(job_id).metrics
    append_line(path, metrics(1))
    append_line(path, metrics(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    bench.tick()
    assert bench.job(job_id).epoch == 1
    path.write_bytes(whole)
    bench.tick()
    assert bench.job(job_id).epoch == 2


def test_a_resumed_attempt_goes_back_to_its_checkpoint(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    path = bench.home.run_dir(job_id).metrics
    for epoch in (1, 2, 3):
        append_line(path, metrics(epoch, accuracy=epoch / 10))
    bench.end(job_id, signal=9)
    bench.tick()
    bench.tick()
    assert bench.job(job_id).epoch == 3  # until it trains again, what it reached is what there is
    drop_lines_after(path, Metrics, STEPS)
    bench.begin(job_id, step=100)
    bench.tick()
    assert (bench.job(job_id).epoch, bench.job(job_id).best_validation_accuracy) == (1, 0.1)


def test_every_epoch_that_a_resumed_attempt_has_repeated_counts_anew(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    path = bench.home.run_dir(job_id).metrics
    for epoch, accuracy in [(1, 0.1), (2, 0.9), (3, 0.2)]:
        append_line(path, metrics(epoch, accuracy=accuracy))
    bench.end(job_id, signal=9)
    bench.tick()
    drop_lines_after(path, Metrics, STEPS)
    for epoch, accuracy in [(2, 0.3), (3, 0.2)]:
        append_line(path, metrics(epoch, accuracy=accuracy))
    bench.begin(job_id, step=100)
    bench.tick()
    assert bench.job(job_id).best_validation_accuracy == 0.3


def test_what_a_worker_wrote_just_before_its_end_counts(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id, step=200)
    append_line(bench.home.run_dir(job_id).metrics, metrics(7))
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).epoch) == (State.FINISHED, 7)
    assert bench.attempt(job_id).start_step == 200


# -- ending -----------------------------------------------------------------------------------------------------


def test_a_job_that_succeeded_reports_its_test_accuracy(bench: Bench) -> None:
    job_id = bench.started()
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert (bench.job(job_id).outcome, bench.job(job_id).test_accuracy) == (Outcome.SUCCEEDED, 0.9)


@pytest.mark.parametrize(
    ("record", "code"), [({"exit_code": 17}, 17), ({"signal": 9}, -9), ({}, None)], ids=["code", "signal", "unknown"]
)
def test_an_attempt_keeps_its_exit_code_or_the_negated_signal(
    bench: Bench, record: dict[str, int], code: int | None
) -> None:
    job_id = bench.started()
    bench.end(job_id, **record)
    bench.tick()
    assert bench.store.attempts(job_id)[0].exit_code == code


def test_the_peak_is_the_larger_of_what_worker_and_kernel_say(bench: Bench) -> None:
    job_id = bench.started()
    write_record(bench.files(job_id).peak, Peak(peak_bytes=70 * MiB))
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=80 * MiB)
    bench.tick()
    assert bench.attempt(job_id).peak_bytes == 80 * MiB


def test_a_failure_tells_the_workers_own_words(bench: Bench) -> None:
    job_id = bench.started()
    write_record(bench.files(job_id).failure, Failure(kind="DataError", message="no images in ~/datasets"))
    bench.end(job_id, exit_code=ExitCode.REFUSED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.FAILED
    assert bench.job(job_id).reason == "no images in ~/datasets"


def test_a_job_that_ran_out_of_memory_starts_again_with_half_as_much_more(bench: Bench) -> None:
    job_id = bench.started(memory="100 MiB")
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY)
    bench.tick()
    assert bench.launch(job_id).number == 2
    assert bench.launch(job_id).reservation_bytes == 150 * MiB


def test_a_job_that_ran_out_of_memory_starts_again_with_the_whole_device_before_it_is_given_up(bench: Bench) -> None:
    job_id = bench.started(memory="800 MiB")
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY)
    bench.tick()
    assert bench.launch(job_id).reservation_bytes == GiB


def test_a_job_that_no_longer_fits_the_device_fails_with_the_reason(bench: Bench) -> None:
    job_id = bench.started(memory="1 GiB")
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.FAILED
    assert "needs 1.5 GiB, the device has 1.0 GiB at most" in (bench.job(job_id).reason or "")


def test_a_job_that_fails_twice_at_the_same_place_is_over_and_the_rest_goes_on(bench: Bench) -> None:
    bad, good = bench.submit(), bench.submit()
    for _ in range(2):
        bench.tick()
        bench.end(bad, exit_code=ExitCode.FAILED)
    bench.tick()
    assert bench.job(bad).outcome is Outcome.FAILED
    assert bench.starting() == [good]


def test_a_retried_job_has_all_its_tries_again_and_is_estimated_anew(bench: Bench) -> None:
    job_id = bench.submit()
    for _ in range(2):
        bench.tick()
        bench.end(job_id, exit_code=ExitCode.FAILED)
    bench.tick()
    bench.store.retry(job_id)
    assert bench.job(job_id).estimate is None
    bench.tick()
    bench.end(job_id, exit_code=ExitCode.FAILED)
    bench.tick()
    assert bench.job(job_id).state is State.STARTING
    assert bench.launch(job_id).number == 4


def test_a_running_job_that_is_cancelled_is_asked_to_stop_and_ends_cancelled(bench: Bench) -> None:
    job_id, other = bench.submit(), bench.submit()
    bench.tick()
    bench.store.cancel(job_id)
    bench.tick()
    assert bench.engine.asked_to_stop == {bench.files(job_id).folder}
    bench.end(job_id, exit_code=ExitCode.STOPPED, stop_requested=True)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.CANCELLED
    assert bench.starting() == [other]


def test_a_job_whose_time_is_up_ends_timed_out_and_a_retry_counts_anew(bench: Bench) -> None:
    job_id = bench.started()
    assert bench.launch(job_id).first_counted == 1
    write_record(bench.files(job_id).failure, Failure(kind="TimeUp", message="its time limit of 6h is up"))
    bench.end(job_id, exit_code=ExitCode.TIMED_OUT)
    bench.tick()
    job = bench.job(job_id)
    assert (job.state, job.outcome) == (State.FINISHED, Outcome.TIMED_OUT)
    assert job.reason == "its time limit of 6h is up; `gpuq retry` gives it as much again"
    assert bench.store.retry(job_id)
    bench.tick()
    assert (bench.launch(job_id).number, bench.launch(job_id).first_counted) == (2, 2)


def test_time_counts_on_in_an_attempt_that_the_dispatcher_starts_again(bench: Bench) -> None:
    job_id = bench.started()
    bench.end(job_id, signal=9)
    bench.tick()
    assert (bench.launch(job_id).number, bench.launch(job_id).first_counted) == (2, 1)


def test_a_job_says_how_long_it_may_show_no_progress(bench: Bench) -> None:
    assert bench.launch(bench.started()).hang_s == 600


def test_a_broken_file_of_one_attempt_does_not_keep_the_others_from_being_followed(bench: Bench) -> None:
    broken, fine = bench.started(), bench.started()
    bench.home.run_dir(broken).metrics.mkdir(parents=True)
    for job_id in (broken, fine):
        bench.begin(job_id)
        bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert (bench.job(broken).outcome, bench.job(fine).outcome) == (None, Outcome.SUCCEEDED)


# -- dispatchers come and go ------------------------------------------------------------------------------------


def test_a_dispatcher_that_dies_between_reservation_and_start_loses_nothing(bench: Bench) -> None:
    job_id = bench.submit()
    bench.engine.fails_to_start = True
    with pytest.raises(KeyboardInterrupt):
        bench.tick()
    assert len(bench.store.live_attempts()) == 1
    bench.engine.fails_to_start = False
    bench.new_dispatcher().tick()
    assert [one.outcome for one in bench.store.attempts(job_id)] == [Outcome.LOST, None]
    assert bench.launch(job_id).number == 2


def test_another_dispatcher_adopts_what_runs(bench: Bench) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    append_line(bench.home.run_dir(job_id).metrics, metrics(1))
    bench.tick()
    append_line(bench.home.run_dir(job_id).metrics, metrics(2))
    bench.dispatcher = bench.new_dispatcher()
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).epoch) == (State.RUNNING, 2)
    assert len(bench.engine.launches) == 1
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.SUCCEEDED


def shut_down(bench: Bench) -> None:
    """With workers that stop as soon as they are asked to."""

    def meanwhile(_seconds: float) -> None:
        for folder in bench.engine.asked_to_stop:
            bench.engine.ended[folder] = ended(exit_code=ExitCode.STOPPED, stop_requested=True)

    bench.dispatcher.shut_down(sleep=meanwhile)


def test_shutting_down_queues_again_what_runs(bench: Bench) -> None:
    jobs = [bench.started(), bench.started()]
    shut_down(bench)
    assert [bench.job(job_id).state for job_id in jobs] == [State.QUEUED, State.QUEUED]
    assert [bench.attempt(job_id).outcome for job_id in jobs] == [Outcome.STOPPED, Outcome.STOPPED]
    assert bench.estimator.closed


def test_shutting_down_starts_nothing_in_the_room_that_comes_free(bench: Bench) -> None:
    bench.started(memory="900 MiB")
    waiting = bench.submit(memory="900 MiB")
    shut_down(bench)
    assert bench.store.attempts(waiting) == []


def test_leaving_lets_attempts_go_on(bench: Bench) -> None:
    bench.started()
    bench.dispatcher.leave()
    assert bench.engine.asked_to_stop == set()
    assert bench.estimator.closed


def test_a_worker_is_told_the_precision_that_was_traced(bench: Bench) -> None:
    assert bench.launch(bench.started()).precision == "fp32"
