"""How long a job still takes."""

import pytest
from builders import STEPS, metrics

from scheduler.eta import RECENT_LINES, remaining_s


def test_one_line_is_taken_as_the_pace() -> None:
    assert remaining_s([metrics(1, elapsed_s=12.0)], steps=5 * STEPS) == 48.0


def test_a_steady_pace_goes_on() -> None:
    assert remaining_s([metrics(n) for n in range(1, 5)], steps=10 * STEPS) == 60.0


def test_one_slow_epoch_does_not_count() -> None:
    """Another job started beside it, or the first epoch loaded kernels."""
    elapsed = [30.0, 40.0, 50.0, 90.0, 100.0]
    lines = [metrics(n, elapsed_s=s) for n, s in enumerate(elapsed, start=1)]
    assert remaining_s(lines, steps=6 * STEPS) == 10.0


def test_a_new_pace_replaces_the_old_after_some_epochs() -> None:
    old = [metrics(n, elapsed_s=100.0 * n) for n in range(1, 21)]
    new = [metrics(20 + n, elapsed_s=2000.0 + n) for n in range(1, RECENT_LINES + 1)]
    assert remaining_s(old + new, steps=31 * STEPS) == 1.0


def test_a_gap_between_lines_is_shared_by_its_steps() -> None:
    assert remaining_s([metrics(1, elapsed_s=10.0), metrics(5, elapsed_s=50.0)], steps=6 * STEPS) == 10.0


@pytest.mark.parametrize("epoch", [10, 12])
def test_nothing_remains_at_the_end(epoch: int) -> None:
    assert remaining_s([metrics(epoch)], steps=10 * STEPS) == 0.0
