"""How long nothing starts once the device has failed jobs."""

import pytest

from scheduler.rest import FIRST_S, LONGEST_S, Rest


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("scheduler.rest.time.monotonic", made)
    return made


def length_s(rest: Rest, clock: Clock) -> float:
    """Of the rest that begins now."""
    rest.begin("it has failed")
    began = clock.now
    while rest.reason() is not None:
        clock.now += 1
    return clock.now - began


def test_each_time_it_fails_again_is_twice_as_long_up_to_an_hour(clock: Clock) -> None:
    rest = Rest()
    assert [length_s(rest, clock) for _ in range(8)] == [60, 120, 240, 480, 960, 1920, LONGEST_S, LONGEST_S]


def test_what_else_ends_meanwhile_counts_for_nothing(clock: Clock) -> None:
    rest = Rest()
    for _ in range(5):
        rest.begin("it has failed")
    clock.now += FIRST_S
    assert rest.reason() is None
    assert length_s(rest, clock) == 2 * FIRST_S


def test_once_it_has_recovered_it_is_short_again(clock: Clock) -> None:
    rest = Rest()
    length_s(rest, clock)
    rest.recovered()
    assert length_s(rest, clock) == FIRST_S


def test_it_says_why_and_for_how_long(clock: Clock) -> None:
    rest = Rest()
    length_s(rest, clock)
    rest.begin("the device has failed a job")
    assert rest.reason() == "the device has failed a job; nothing starts for 2m"
