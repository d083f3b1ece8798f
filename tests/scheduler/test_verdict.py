"""What an ended attempt means for its job."""

import signal

import pytest
from builders import MiB, attempt, ended

from jobs.run_dir import ExitCode, ExitRecord, Failure, KilledFor
from scheduler.estimate import Basis
from scheduler.records import Attempt
from scheduler.states import Outcome, Wish
from scheduler.verdict import (
    MAX_FAILURES_WITHOUT_PROGRESS,
    MAX_LOSSES_WITHOUT_PROGRESS,
    MAX_OUT_OF_MEMORY,
    Verdict,
    judge,
    out_of_memory_in_a_row,
)

BOOM = Failure(kind="RuntimeError", message="RuntimeError: boom")


def verdict(
    record: ExitRecord,
    failure: Failure | None = None,
    wish: Wish | None = None,
    earlier: list[Attempt] | None = None,
    start_step: int | None = 0,
    has_result: bool = True,
) -> Verdict:
    earlier = earlier or []
    latest = attempt(number=len(earlier) + 1, start_step=start_step)
    return judge(record, failure, wish, latest, earlier, has_result=has_result)


def history(*outcomes: Outcome, start_step: int = 0) -> list[Attempt]:
    return [attempt(outcome, number=n, start_step=start_step) for n, outcome in enumerate(outcomes, start=1)]


@pytest.mark.parametrize(
    ("record", "failure", "expected"),
    [
        (ended(exit_code=ExitCode.SUCCEEDED), None, Verdict(Outcome.SUCCEEDED, None, requeue=False)),
        (
            ended(exit_code=ExitCode.STOPPED, stop_requested=True),
            None,
            Verdict(Outcome.STOPPED, "stopped; goes on from its checkpoint", requeue=True),
        ),
        (
            ended(signal=signal.SIGKILL, stop_requested=True, killed_for=KilledFor.GRACE),
            None,
            Verdict(Outcome.STOPPED, "stopped; goes on from its checkpoint", requeue=True),
        ),
        (
            ended(signal=signal.SIGTERM, stop_requested=True),  # before the worker could listen
            None,
            Verdict(Outcome.STOPPED, "stopped; goes on from its checkpoint", requeue=True),
        ),
        (
            ended(exit_code=ExitCode.OUT_OF_MEMORY),
            Failure(kind="OutOfMemoryError", message="…", requested_bytes=64 * MiB),
            Verdict(
                Outcome.OUT_OF_MEMORY,
                "needed more than the 512 MiB reserved (an allocation of 64.0 MiB failed); "
                "queued again with a larger reservation",
                requeue=True,
            ),
        ),
        (
            ended(signal=signal.SIGKILL, killed_for=KilledFor.MEMORY),
            None,
            Verdict(
                Outcome.OUT_OF_MEMORY,
                "needed more than the 512 MiB reserved; queued again with a larger reservation",
                requeue=True,
            ),
        ),
        (
            ended(exit_code=ExitCode.OUT_OF_MEMORY),
            Failure(kind="MemoryError", message="MemoryError: Unable to allocate 8.00 TiB for an array"),
            Verdict(
                Outcome.OUT_OF_MEMORY,
                "needed more than the 512 MiB reserved (MemoryError: Unable to allocate 8.00 TiB for an array); "
                "queued again with a larger reservation",
                requeue=True,
            ),
        ),
        (
            ended(exit_code=ExitCode.TIMED_OUT),
            Failure(kind="TimeUp", message="its time limit of 6h is up (limits.time)"),
            Verdict(
                Outcome.TIMED_OUT,
                "its time limit of 6h is up (limits.time); `gpuq retry` gives it as much again",
                requeue=False,
            ),
        ),
        (
            ended(exit_code=ExitCode.REFUSED),
            Failure(kind="DataError", message="no images in ~/datasets"),
            Verdict(Outcome.FAILED, "no images in ~/datasets", requeue=False),
        ),
        (ended(exit_code=ExitCode.REFUSED), None, Verdict(Outcome.FAILED, "failed without a word", requeue=False)),
        (
            ended(exit_code=ExitCode.FAILED),
            BOOM,
            Verdict(Outcome.FAILED, "RuntimeError: boom; tried again from its checkpoint", requeue=True),
        ),
        (
            ended(exit_code=17),
            None,
            Verdict(Outcome.FAILED, "ended with exit code 17; tried again from its checkpoint", requeue=True),
        ),
        (
            ended(signal=signal.SIGSEGV),
            None,
            Verdict(Outcome.FAILED, "ended by SIGSEGV; tried again from its checkpoint", requeue=True),
        ),
        (
            ended(signal=signal.SIGTERM),  # nobody of ours asked for it
            None,
            Verdict(Outcome.FAILED, "ended by SIGTERM; tried again from its checkpoint", requeue=True),
        ),
        (
            ended(signal=signal.SIGKILL),
            None,
            Verdict(Outcome.LOST, "its worker was killed (SIGKILL); goes on from its checkpoint", requeue=True),
        ),
        (
            ended(),
            None,
            Verdict(
                Outcome.LOST, "its worker vanished with its parent process; goes on from its checkpoint", requeue=True
            ),
        ),
    ],
    ids=lambda value: str(value.outcome) if isinstance(value, Verdict) else "",
)
def test_each_way_to_end(record: ExitRecord, failure: Failure | None, expected: Verdict) -> None:
    assert verdict(record, failure) == expected


HUNG = [
    ended(signal=signal.SIGKILL, killed_for=KilledFor.HANG, stop_requested=True, hung_s=600.4),
    ended(exit_code=ExitCode.STOPPED, stop_requested=True, hung_s=600.4),  # it found its way to a checkpoint
    ended(signal=signal.SIGTERM, stop_requested=True, hung_s=600.4),  # before it could listen
]


@pytest.mark.parametrize("record", HUNG)
def test_a_hang_is_tried_again_once_from_the_checkpoint(record: ExitRecord) -> None:
    assert verdict(record) == Verdict(
        Outcome.FAILED, "hung: no progress for 10m; tried again from its checkpoint", requeue=True
    )
    assert verdict(record, earlier=history(Outcome.FAILED)) == Verdict(
        Outcome.FAILED, "hung: no progress for 10m (2 times at the same place)", requeue=False
    )


def test_a_probe_that_hung_has_not_measured_anything() -> None:
    probe = attempt(basis=Basis.PROBED)
    record = ended(exit_code=ExitCode.STOPPED, stop_requested=True, hung_s=600.4)
    assert judge(record, None, None, probe, [], has_result=False).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (ExitCode.SUCCEEDED, Outcome.SUCCEEDED),
        (ExitCode.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY),
        (ExitCode.TIMED_OUT, Outcome.TIMED_OUT),
    ],
)
def test_a_worker_that_was_taken_for_hung_and_ends_by_itself_is_believed(code: ExitCode, outcome: Outcome) -> None:
    assert verdict(ended(exit_code=code, stop_requested=True, hung_s=600.4)).outcome is outcome


@pytest.mark.parametrize(
    "record",
    [
        *HUNG,
        ended(exit_code=ExitCode.TIMED_OUT),
        ended(exit_code=ExitCode.STOPPED, stop_requested=True),
        ended(signal=signal.SIGKILL, stop_requested=True, killed_for=KilledFor.GRACE),
        ended(signal=signal.SIGTERM, stop_requested=True),
        ended(exit_code=ExitCode.FAILED),
        ended(exit_code=ExitCode.OUT_OF_MEMORY),
        ended(),
    ],
)
def test_a_wish_to_cancel_wins_over_any_end_but_success(record: ExitRecord) -> None:
    cancelled = Verdict(Outcome.CANCELLED, "cancelled while it ran", requeue=False)
    assert verdict(record, wish=Wish.CANCEL) == cancelled


def test_success_wins_over_a_wish_to_cancel() -> None:
    assert verdict(ended(exit_code=ExitCode.SUCCEEDED), wish=Wish.CANCEL).outcome is Outcome.SUCCEEDED


def test_a_second_failure_at_the_same_step_ends_the_job() -> None:
    last = verdict(ended(exit_code=ExitCode.FAILED), BOOM, earlier=history(Outcome.FAILED))
    assert last == Verdict(Outcome.FAILED, "RuntimeError: boom (2 times at the same place)", requeue=False)


def test_progress_between_failures_gives_another_try() -> None:
    earlier = history(*[Outcome.FAILED] * MAX_FAILURES_WITHOUT_PROGRESS, start_step=100)
    assert verdict(ended(exit_code=ExitCode.FAILED), BOOM, earlier=earlier, start_step=200).requeue


def test_an_attempt_that_never_began_to_train_is_at_the_first_step() -> None:
    earlier = history(Outcome.FAILED, start_step=0)
    assert not verdict(ended(exit_code=ExitCode.FAILED), BOOM, earlier=earlier, start_step=None).requeue


@pytest.mark.parametrize("between", [Outcome.LOST, Outcome.STOPPED, Outcome.OUT_OF_MEMORY])
def test_another_ending_between_two_failures_is_not_progress(between: Outcome) -> None:
    """Otherwise endings that take turns would go on for ever."""
    earlier = history(Outcome.FAILED, between)
    assert not verdict(ended(exit_code=ExitCode.FAILED), BOOM, earlier=earlier).requeue


@pytest.mark.parametrize("tries", [1, 2])
def test_running_out_of_memory_is_tried_again_twice(tries: int) -> None:
    earlier = history(*[Outcome.OUT_OF_MEMORY] * (tries - 1))
    assert verdict(ended(exit_code=ExitCode.OUT_OF_MEMORY), earlier=earlier).requeue


def test_running_out_of_memory_the_third_time_ends_the_job() -> None:
    earlier = history(*[Outcome.OUT_OF_MEMORY] * (MAX_OUT_OF_MEMORY - 1))
    assert verdict(ended(exit_code=ExitCode.OUT_OF_MEMORY), earlier=earlier) == Verdict(
        Outcome.OUT_OF_MEMORY, "needed more than the 512 MiB reserved, 3 times in a row", requeue=False
    )


def test_only_the_latest_shortages_count() -> None:
    outcomes = Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY, Outcome.STOPPED, Outcome.OUT_OF_MEMORY
    assert out_of_memory_in_a_row(history(*outcomes)) == 1


def test_a_job_is_lost_for_good_the_tenth_time_without_progress() -> None:
    assert verdict(ended(), earlier=history(*[Outcome.LOST] * (MAX_LOSSES_WITHOUT_PROGRESS - 2))).requeue
    assert verdict(ended(), earlier=history(*[Outcome.LOST] * (MAX_LOSSES_WITHOUT_PROGRESS - 1))) == Verdict(
        Outcome.LOST,
        "its worker vanished with its parent process (10 times without progress)",
        requeue=False,
    )


DEVICE_LOST = Failure(kind="AcceleratorError", message="AcceleratorError: CUDA error: unknown error", of_device=True)


def test_a_job_that_dies_of_the_device_is_queued_again_and_has_not_failed() -> None:
    assert verdict(ended(exit_code=ExitCode.FAILED), DEVICE_LOST, earlier=history(Outcome.LOST)) == Verdict(
        Outcome.LOST,
        "the device failed: AcceleratorError: CUDA error: unknown error; goes on from its checkpoint",
        requeue=True,
    )


def test_it_counts_even_if_the_process_then_falls_over_what_is_left_of_the_device() -> None:
    assert verdict(ended(signal=signal.SIGABRT), DEVICE_LOST).outcome is Outcome.LOST


def test_a_device_that_fails_a_job_each_time_ends_it_as_lost_with_the_reason() -> None:
    last = verdict(
        ended(exit_code=ExitCode.FAILED),
        DEVICE_LOST,
        earlier=history(*[Outcome.LOST] * (MAX_LOSSES_WITHOUT_PROGRESS - 1)),
    )
    reason = "the device failed: AcceleratorError: CUDA error: unknown error (10 times without progress)"
    assert last == Verdict(Outcome.LOST, reason, requeue=False)


def test_a_job_that_gets_further_each_time_survives_any_number_of_losses() -> None:
    earlier = [attempt(Outcome.LOST, number=n, start_step=10 * n) for n in range(1, 40)]
    assert verdict(ended(), earlier=earlier, start_step=1000).requeue


def test_exit_code_0_without_a_result_is_no_success() -> None:
    ended = ExitRecord(started_at="", ended_at="", exit_code=0)
    judged = verdict(ended, has_result=False)
    assert (judged.outcome, judged.requeue) == (Outcome.FAILED, True)
    assert judged.reason == "ended with exit code 0 and no result; tried again from its checkpoint"
