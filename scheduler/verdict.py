"""What an ended attempt means for its job: finished and how, or queued again. Pure."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from jobs.run_dir import ExitCode, ExitRecord, Failure, KilledFor
from jobs.units import format_bytes, format_duration
from scheduler.estimate import Basis
from scheduler.records import Attempt
from scheduler.states import Outcome, Wish

MAX_OUT_OF_MEMORY = 3
MAX_FAILURES_WITHOUT_PROGRESS = 2
MAX_LOSSES_WITHOUT_PROGRESS = 10


@dataclass(frozen=True)
class Verdict:
    """The outcome of an attempt, and whether its job is queued again."""

    outcome: Outcome
    reason: str | None
    requeue: bool


def judge(
    ended: ExitRecord,
    failure: Failure | None,
    wish: Wish | None,
    attempt: Attempt,
    earlier: Sequence[Attempt],
    *,
    has_result: bool,
) -> Verdict:
    """Decide from the exit record, the worker's own words, whether it left a result (user code may end the process
    with exit code 0), and the `earlier` attempts that count, oldest first.
    """
    if ended.exit_code == ExitCode.SUCCEEDED and has_result:
        return Verdict(Outcome.SUCCEEDED, None, requeue=False)
    if wish is Wish.CANCEL:
        return Verdict(Outcome.CANCELLED, "cancelled while it ran", requeue=False)
    if has_probed(ended, attempt):
        return Verdict(Outcome.STOPPED, "its memory has been measured; goes on from its checkpoint", requeue=True)
    if ended.hung_s is not None and _was_stopped(ended):
        return _failed(ended, None, attempt, earlier)
    if _was_stopped(ended):
        return Verdict(Outcome.STOPPED, "stopped; goes on from its checkpoint", requeue=True)
    if ended.exit_code == ExitCode.OUT_OF_MEMORY or ended.killed_for is KilledFor.MEMORY:
        return _out_of_memory(failure, attempt, earlier)
    if ended.exit_code == ExitCode.TIMED_OUT:
        return Verdict(Outcome.TIMED_OUT, f"{_words(failure)}; `gpuq retry` gives it as much again", requeue=False)
    if ended.exit_code == ExitCode.REFUSED:
        return Verdict(Outcome.FAILED, _words(failure), requeue=False)
    if (loss := _loss(ended, failure)) is not None:
        return _lost(loss, attempt, earlier)
    return _failed(ended, failure, attempt, earlier)


def has_probed(ended: ExitRecord, attempt: Attempt) -> bool:
    """Whether this was a few steps alone on the device to measure their memory, and they were all made."""
    stopped_itself = ended.exit_code == ExitCode.STOPPED and not ended.stop_requested
    return attempt.basis is Basis.PROBED and stopped_itself


def without_progress(attempts: Sequence[Attempt], outcome: Outcome, start_step: int | None) -> int:
    """How many attempts ended with this outcome since the job last got past `start_step`."""
    same_place = takewhile(lambda attempt: (attempt.start_step or 0) == (start_step or 0), reversed(attempts))
    return sum(attempt.outcome is outcome for attempt in same_place)


def out_of_memory_in_a_row(attempts: Sequence[Attempt]) -> int:
    """How many of the latest attempts ran out of memory."""
    latest = takewhile(lambda attempt: attempt.outcome is Outcome.OUT_OF_MEMORY, reversed(attempts))
    return sum(1 for _ in latest)


def _was_stopped(ended: ExitRecord) -> bool:
    """Whether it ended because it was asked to; one asked before it could listen ends by the signal itself."""
    by_the_signal = ended.stop_requested and ended.signal == signal.SIGTERM
    return ended.exit_code == ExitCode.STOPPED or ended.killed_for in (KilledFor.GRACE, KilledFor.HANG) or by_the_signal


def _out_of_memory(failure: Failure | None, attempt: Attempt, earlier: Sequence[Attempt]) -> Verdict:
    tries = out_of_memory_in_a_row(earlier) + 1
    held = f"needed more than the {format_bytes(attempt.reservation_bytes)} reserved"
    if failure is not None and failure.requested_bytes is not None:
        held += f" (an allocation of {format_bytes(failure.requested_bytes)} failed)"
    elif failure is not None:
        held += f" ({failure.message.removesuffix(': ')})"
    if tries >= MAX_OUT_OF_MEMORY:
        return Verdict(Outcome.OUT_OF_MEMORY, f"{held}, {tries} times in a row", requeue=False)
    return Verdict(Outcome.OUT_OF_MEMORY, f"{held}; queued again with a larger reservation", requeue=True)


def _loss(ended: ExitRecord, failure: Failure | None) -> str | None:
    """Why an attempt was lost through nobody's fault that is known; None if it was not."""
    if failure is not None and failure.of_device:
        return f"the device failed: {failure.message}"
    if ended.exit_code is None and ended.signal in (None, signal.SIGKILL):
        return f"its worker {'was killed (SIGKILL)' if ended.signal else 'vanished with its parent process'}"
    return None


def _lost(why: str, attempt: Attempt, earlier: Sequence[Attempt]) -> Verdict:
    losses = without_progress(earlier, Outcome.LOST, attempt.start_step) + 1
    if losses >= MAX_LOSSES_WITHOUT_PROGRESS:
        return Verdict(Outcome.LOST, f"{why} ({losses} times without progress)", requeue=False)
    return Verdict(Outcome.LOST, f"{why}; goes on from its checkpoint", requeue=True)


def _failed(ended: ExitRecord, failure: Failure | None, attempt: Attempt, earlier: Sequence[Attempt]) -> Verdict:
    why = _words(failure) if failure is not None else _ending(ended)
    failures = without_progress(earlier, Outcome.FAILED, attempt.start_step) + 1
    if failures >= MAX_FAILURES_WITHOUT_PROGRESS:
        return Verdict(Outcome.FAILED, f"{why} ({failures} times at the same place)", requeue=False)
    return Verdict(Outcome.FAILED, f"{why}; tried again from its checkpoint", requeue=True)


def _words(failure: Failure | None) -> str:
    return "failed without a word" if failure is None else failure.message


def _ending(ended: ExitRecord) -> str:
    if ended.hung_s is not None:
        return f"hung: no progress for {format_duration(ended.hung_s)}"
    if ended.signal is not None:
        return f"ended by {signal.Signals(ended.signal).name}"
    return f"ended with exit code {ended.exit_code}" + ("" if ended.exit_code else " and no result")
