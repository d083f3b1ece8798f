"""How long nothing starts once the device has failed jobs."""

import pytest
from hand_clock import HandClock

from scheduler.rest import FIRST_S, LONGEST_S, Rest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    made = HandClock()
    monkeypatch.setattr("scheduler.rest.time.monotonic", made)
    return made


def length_s(rest: Rest, clock: HandClock) -> float:
    """Of the rest that begins now."""
    rest.begin("it has failed")
    began = clock.now
    while rest.reason() is not None:
        clock.now += 1
    return clock.now - began


def test_each_time_it_fails_again_is_twice_as_long_up_to_an_hour(clock: HandClock) -> None:
    rest = Rest()
    assert [length_s(rest, clock) for _ in range(8)] == [60, 120, 240, 480, 960, 1920, LONGEST_S, LONGEST_S]


def test_what_else_ends_meanwhile_counts_for_nothing(clock: HandClock) -> None:
    rest = Rest()
    for _ in range(5):
        rest.begin("it has failed")
    clock.now += FIRST_S
    assert rest.reason() is None
    assert length_s(rest, clock) == 2 * FIRST_S


def test_once_it_has_recovered_it_is_short_again(clock: HandClock) -> None:
    rest = Rest()
    length_s(rest, clock)
    rest.recovered()
    assert length_s(rest, clock) == FIRST_S


def test_it_says_why_and_for_how_long(clock: HandClock) -> None:
    rest = Rest()
    length_s(rest, clock)
    rest.begin("the device has failed a job")
    assert rest.reason() == "the device has failed a job; nothing starts for 2m"
