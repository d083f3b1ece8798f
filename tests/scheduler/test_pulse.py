"""When a worker counts as hung."""

import math
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.pulse import PACE_FACTOR, STARTING_FACTOR, Pulse

HANG_S = 8.0
LOOK_S = 0.125  # a power of two: times add up exactly

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)
pauses = st.lists(st.integers(1, 40).map(lambda looks: looks * LOOK_S), min_size=1, max_size=20)


class Watched:
    """A pulse, looked at eight times a second."""

    def __init__(self, hang_s: float = HANG_S) -> None:
        self.pulse = Pulse(hang_s, 0.0)
        self.now_s = 0.0
        self.beats = 0

    def silent(self, seconds: float) -> float | None:
        """Let so much time pass; how long it has hung then, if it has."""
        for _ in range(round(seconds / LOOK_S)):
            self.now_s += LOOK_S
            self.pulse.observe(self.beats or None, self.now_s)
        return self.pulse.hung_s

    def beat(self) -> None:
        self.beats += 1
        self.pulse.observe(self.beats, self.now_s)

    def train(self, pauses: Iterable[float]) -> "Watched":
        self.beat()
        for pause in pauses:
            self.silent(pause)
            self.beat()
        return self


def allowed(watched: Watched, seconds: float) -> bool:
    """Whether it may be silent for exactly so long, and no longer."""
    return watched.silent(seconds) is None and watched.silent(LOOK_S) == seconds + LOOK_S


@PROPERTY
@given(pauses)
def test_it_may_pause_for_the_minimum_or_ten_times_its_longest_pause(pauses: list[float]) -> None:
    assert allowed(Watched().train(pauses), max(HANG_S, PACE_FACTOR * max(pauses)))


@PROPERTY
@given(pauses)
def test_how_long_it_loaded_says_nothing_of_its_pace(pauses: list[float]) -> None:
    watched = Watched()
    watched.silent(STARTING_FACTOR * HANG_S)
    assert allowed(watched.train(pauses), max(HANG_S, PACE_FACTOR * max(pauses)))


def test_loading_may_take_six_times_the_minimum() -> None:
    assert allowed(Watched(), STARTING_FACTOR * HANG_S)


def test_so_may_the_first_step() -> None:
    assert allowed(Watched().train([]), STARTING_FACTOR * HANG_S)


def test_progress_ends_a_hang() -> None:
    watched = Watched().train([1.0])
    assert watched.silent(2 * PACE_FACTOR) is not None
    watched.beat()
    assert watched.pulse.hung_s is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The machine was frozen, say: the worker had no chance to get on either."""
    watched = Watched().train([0.5])
    watched.pulse.observe(watched.beats, watched.now_s + 100 * HANG_S)
    assert watched.pulse.hung_s is None


def test_without_a_limit_it_never_hangs() -> None:
    assert Watched(math.inf).silent(1000.0) is None
