"""What past ratios of measured to predicted bytes say about the next: coverage, prior, and limits."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.margin import ENOUGH, LARGEST, MISCOVERAGE, SMALLEST, WINDOW, conformal_quantile, learned

PRIOR = 0.15
QUIET = settings(deadline=None, max_examples=100, derandomize=True)
ratios = st.lists(st.floats(0.1, 4.0), max_size=WINDOW)


# -- the quantile -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scores", "rank"), [(19, 19), (20, 20), (39, 38), (59, 57), (60, 58), (99, 95), (100, 96)])
def test_the_quantile_has_the_rank_of_the_finite_sample_correction(scores: int, rank: int) -> None:
    """⌈(n + 1) · 0.95⌉, by hand."""
    assert conformal_quantile([float(score) for score in range(1, scores + 1)], 0.05) == rank


@pytest.mark.parametrize("scores", [0, 1, ENOUGH - 1])
def test_too_few_scores_bound_nothing(scores: int) -> None:
    assert conformal_quantile([1.0] * scores) == math.inf


def test_enough_scores_are_the_fewest_that_bound_anything() -> None:
    assert conformal_quantile([1.0] * ENOUGH) == 1.0


@pytest.mark.parametrize("count", [ENOUGH, 20, 39, WINDOW])
def test_the_next_of_exchangeable_scores_exceeds_the_quantile_no_more_often_than_allowed(count: int) -> None:
    random_, trials = random.Random(count), 4000
    exceeded = 0
    for _ in range(trials):
        *past, following = (random_.lognormvariate(0.0, 0.3) for _ in range(count + 1))
        exceeded += following > conformal_quantile(past)
    sampling_error = 3 * math.sqrt(MISCOVERAGE * (1 - MISCOVERAGE) / trials)
    assert exceeded / trials <= MISCOVERAGE + sampling_error


# -- the margin -------------------------------------------------------------------------------------------------


def test_a_device_of_which_nothing_is_known_gets_the_prior() -> None:
    assert learned([], PRIOR) == PRIOR


def test_few_ratios_do_not_lower_the_margin() -> None:
    assert learned([1.0] * (ENOUGH - 1), PRIOR) == PRIOR


def test_one_prediction_that_fell_short_raises_the_margin_while_little_is_known() -> None:
    assert learned([1.0, 1.3, 0.9], PRIOR) == pytest.approx(0.3)


def test_enough_ratios_below_the_prior_lower_the_margin() -> None:
    assert learned([1.04] + [1.0] * (ENOUGH - 1), PRIOR) == pytest.approx(0.04)


def test_ratios_below_1_count() -> None:
    """Of 19 ratios the largest decides, of 59 the third largest: what was needed less often is crowded out."""
    high = [1.2] * 2
    assert learned(high + [0.9] * 17, PRIOR) == pytest.approx(0.2)
    assert learned(high + [0.9] * 57, PRIOR) == SMALLEST


def test_in_a_full_window_the_third_ratio_beyond_the_margin_raises_it() -> None:
    settled = [1.0] * WINDOW
    assert learned([1.1] * 2 + settled[2:], PRIOR) == SMALLEST
    assert learned([1.1] * 3 + settled[3:], PRIOR) == pytest.approx(0.1)


@QUIET
@given(past=ratios)
def test_a_margin_neither_caps_a_job_below_its_prediction_nor_makes_all_pay_for_the_worst(past: list[float]) -> None:
    assert SMALLEST <= learned(past, PRIOR) <= LARGEST


@QUIET
@given(past=ratios, data=st.data())
def test_a_larger_ratio_never_lowers_the_margin(past: list[float], data: st.DataObject) -> None:
    raised = [ratio + data.draw(st.floats(0, 1)) for ratio in past]
    assert learned(raised, PRIOR) >= learned(past, PRIOR)


@QUIET
@given(past=ratios.flatmap(lambda drawn: st.tuples(st.just(drawn), st.permutations(drawn))))
def test_the_order_of_ratios_does_not_matter(past: tuple[list[float], list[float]]) -> None:
    assert learned(past[0], PRIOR) == learned(past[1], PRIOR)
