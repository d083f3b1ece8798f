"""SIGKILL of the dispatcher, or of a parent process, just before, just after and within each of their writes.

All of them: `pytest tests/crashes -m "slow or not slow"`.
"""

import pytest
from crash_point import BEFORE, CrashPoint
from crash_table import (
    DISPATCHER,
    DISPATCHER_AFTER_A_CRASH,
    DISPATCHER_OF_A_CROWD,
    PARENT,
    place,
    some_now_all_when_slow,
)
from night import KILLED, SMALL, TOO_LARGE, Night

from scheduler.states import Outcome


def test_a_night_without_a_crash(night: Night) -> None:
    night.submit(SMALL, TOO_LARGE)
    assert night.run() == 1, night.said()
    night.assert_in_order(Outcome.SUCCEEDED, Outcome.FAILED)


@pytest.mark.parametrize("point", some_now_all_when_slow(DISPATCHER, every=2))
def test_the_next_dispatcher_brings_everything_to_its_end(night: Night, point: CrashPoint) -> None:
    night.submit(SMALL, TOO_LARGE)
    assert night.run(point) == KILLED, night.said()
    night.run()
    night.assert_in_order(Outcome.SUCCEEDED, Outcome.FAILED)


@pytest.mark.parametrize("point", some_now_all_when_slow(DISPATCHER_OF_A_CROWD))
def test_jobs_that_wait_for_room_get_their_turn(night: Night, point: CrashPoint) -> None:
    night.submit(SMALL, SMALL)
    assert night.run(point) == KILLED, night.said()
    assert night.run() == 0
    night.assert_in_order(Outcome.SUCCEEDED, Outcome.SUCCEEDED)


@pytest.mark.parametrize("point", some_now_all_when_slow(DISPATCHER_AFTER_A_CRASH, every=2))
def test_a_crash_while_a_lost_attempt_is_given_up(night: Night, point: CrashPoint) -> None:
    night.submit(SMALL)
    placed = CrashPoint(place("scheduler.supervisor:Supervisor.start > write_record"), BEFORE)
    assert night.run(placed) == KILLED, night.said()
    assert night.run(point) == KILLED, night.said()
    assert night.run() == 0
    night.assert_in_order(Outcome.SUCCEEDED)


@pytest.mark.parametrize("point", some_now_all_when_slow(PARENT, every=2))
def test_the_dispatcher_starts_a_job_again_whose_parent_process_was_killed(night: Night, point: CrashPoint) -> None:
    night.submit(SMALL)
    assert night.run(point) == 0, night.said()
    assert night.has_crashed()
    night.assert_in_order(Outcome.SUCCEEDED, workers_died=True)
