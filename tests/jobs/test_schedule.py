"""Every learning rate, step for step, against torch's schedulers and against factors computed by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from jobs.schedule import Length, ScheduleState, after_evaluation, is_over, length, next_evaluation, rate
from jobs.spec import Constant, Cosine, Plateau, Schedule, Steps, TrainSpec

PROPERTY = settings(deadline=None, max_examples=100, derandomize=True)
BASE = 0.05


def optimizer(lr: float = BASE) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def epochs(count: int, steps_per_epoch: int = 1) -> Length:
    return length(TrainSpec(epochs=count), steps_per_epoch)


def iterations(count: int, steps_per_epoch: int = 7) -> Length:
    return length(TrainSpec(iterations=count), steps_per_epoch)


LONG = epochs(100)


def rates(schedule: Schedule, length: Length) -> list[float]:
    """The rate of every step."""
    return [rate(schedule, BASE, ScheduleState(), length, step) for step in range(length.steps)]


def torch_rates(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, epochs: int) -> list[float]:
    known = []
    for _ in range(epochs):
        known.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return known


@PROPERTY
@given(
    losses=st.lists(st.sampled_from([2.0, 1.0, 0.99995, 0.9998, 0.5, 0.1, 0.0]) | st.floats(0, 10), max_size=60),
    patience=st.integers(0, 5),
    factor=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
)
@example(losses=[1.0] * 200, patience=0, factor=0.5)  # until a decrease is too small to be made
def test_plateau_is_reduce_lr_on_plateau(losses: list[float], patience: int, factor: float) -> None:
    schedule = Plateau(warmup_epochs=0, patience=patience, factor=factor)
    expected = optimizer()
    scheduler = ReduceLROnPlateau(expected, factor=factor, patience=patience)
    state = ScheduleState()
    for epoch, loss in enumerate(losses):
        known = expected.param_groups[0]["lr"]
        assert rate(schedule, BASE, state, LONG, epoch) == pytest.approx(known, rel=1e-12)
        scheduler.step(loss)
        state = after_evaluation(schedule, BASE, state, LONG, epoch + 1, loss)
    assert rate(schedule, BASE, state, LONG, 0) == pytest.approx(expected.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "whole"),
    [(Plateau(warmup_epochs=3, patience=0), epochs(100)), (Plateau(warmup_epochs=3, patience=0), iterations(100, 1))],
    ids=["in epochs", "in iterations"],
)
def test_plateau_does_not_watch_the_loss_while_the_rate_warms_up(schedule: Schedule, whole: Length) -> None:
    state = ScheduleState()
    for step, loss in enumerate((0.1, 9.0, 9.0, 5.0), start=1):  # the first after the warmup is the one to beat
        state = after_evaluation(schedule, BASE, state, whole, step, loss)
    assert state == ScheduleState(scale=1.0, best_loss=5.0, bad_evaluations=0)


def test_plateau_training_ends_once_the_rate_is_below_its_lowest() -> None:
    schedule = Plateau(warmup_epochs=0, patience=0, factor=0.1, min_lr=1e-3)
    ends = []
    state = ScheduleState()
    for epoch in range(1, 5):
        state = after_evaluation(schedule, BASE, state, LONG, epoch, 1.0)
        ends.append(is_over(schedule, BASE, state, LONG, epoch))
    assert ends == [False, False, True, True]  # 0.05, 0.005, 0.0005


def test_the_study_s_plateau_can_fall_below_its_lowest_rate() -> None:
    state, whole, epoch = ScheduleState(), epochs(200), 0
    schedule = Plateau()
    while not is_over(schedule, BASE, state, whole, epoch):
        epoch += 1
        state = after_evaluation(schedule, BASE, state, whole, epoch, 1.0)
    assert epoch == 5 + 1 + 19 * 5  # warmup, one to beat, and five without progress for each of 19 halvings
    assert rate(schedule, BASE, state, whole, epoch) < 1e-7


@PROPERTY
@given(count=st.integers(1, 60), final=st.sampled_from([0.0, 1e-5, 0.01]))
@pytest.mark.parametrize("counted", [epochs, iterations])
def test_cosine_is_cosine_annealing_stepped_once_a_unit(
    counted: Callable[[int], Length], count: int, final: float
) -> None:
    expected = optimizer()
    scheduler = CosineAnnealingLR(expected, T_max=count, eta_min=final)
    known = torch_rates(expected, scheduler, count)
    assert rates(Cosine(final_lr=final), counted(count)) == pytest.approx(known, rel=1e-9, abs=1e-15)


def test_in_epochs_the_rate_stays_within_an_epoch() -> None:
    by_epoch = rates(Cosine(), epochs(6))
    assert rates(Cosine(), epochs(6, steps_per_epoch=3)) == [one for one in by_epoch for _ in range(3)]


def test_cosine_falls_over_the_epochs_after_the_warmup() -> None:
    after_warmup = rates(Cosine(warmup_epochs=4), epochs(24))[4:]
    assert after_warmup == pytest.approx(rates(Cosine(), epochs(20)), rel=1e-12)


def test_cosine_falls_over_the_iterations_after_the_warmup() -> None:
    after_warmup = rates(Cosine(warmup_iterations=40), iterations(240))[40:]
    assert after_warmup == pytest.approx(rates(Cosine(), iterations(200)), rel=1e-12)


def test_cosine_does_not_rise_above_the_rate_where_the_warmup_ends_within_an_epoch() -> None:
    assert max(rates(Cosine(warmup_iterations=5), epochs(4, steps_per_epoch=3))) == BASE


@PROPERTY
@given(milestones=st.sets(st.integers(1, 60), min_size=1, max_size=5), factor=st.sampled_from([0.1, 0.5]))
@pytest.mark.parametrize("counted", [epochs, iterations])
def test_steps_is_multi_step(counted: Callable[[int], Length], milestones: set[int], factor: float) -> None:
    expected = optimizer()
    scheduler = MultiStepLR(expected, sorted(milestones), gamma=factor)
    known = torch_rates(expected, scheduler, 60)
    schedule = Steps(milestones=tuple(sorted(milestones)), factor=factor)
    assert rates(schedule, counted(60)) == pytest.approx(known, rel=1e-12)


def test_a_constant_rate_stays() -> None:
    assert rates(Constant(), epochs(5)) == [BASE] * 5


@pytest.mark.parametrize("schedule", [Plateau, Cosine, Constant, Steps])
@pytest.mark.parametrize("warmup", [{"warmup_epochs": 2}, {"warmup_epochs": 0, "warmup_iterations": 8}])
def test_the_warmup_rises_by_equal_steps_to_the_base_rate(schedule: Any, warmup: dict[str, int]) -> None:
    whole = epochs(10, steps_per_epoch=4)
    warm = [rate(schedule(**warmup), 0.8, ScheduleState(), whole, step) for step in range(8)]
    assert warm == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], rel=1e-12)


def test_the_deepest_residual_network_starts_at_a_tenth_of_its_rate() -> None:
    """He et al. 2015 (arXiv:1512.03385), section 4.2: 0.01 for 400 iterations, then 0.1, divided at 32k and 48k."""
    schedule = Steps(milestones=(32_000, 48_000), warmup_iterations=400, warmup_lr=0.01)
    at = [0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999]
    known = [rate(schedule, 0.1, ScheduleState(), iterations(64_000, 391), step) for step in at]
    assert known == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


@pytest.mark.parametrize("whole", [epochs(3, steps_per_epoch=4), iterations(12)])
def test_training_ends_after_its_steps(whole: Length) -> None:
    assert [is_over(Cosine(), BASE, ScheduleState(), whole, step) for step in (0, 11, 12, 13)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (TrainSpec(epochs=3), [4, 8, 12]),
        (TrainSpec(iterations=10), [4, 8, 10]),
        (TrainSpec(iterations=10, evaluate_every=3), [3, 6, 9, 10]),
        (TrainSpec(iterations=10, evaluate_every=100), [10]),
        (TrainSpec(epochs=2, evaluate_every=5), [5, 8]),
    ],
)
def test_it_is_evaluated_each_epoch_or_every_so_many_iterations_and_at_the_end(
    train: TrainSpec, expected: list[int]
) -> None:
    whole = length(train, steps_per_epoch=4)
    steps = [0]
    while steps[-1] < whole.steps:
        steps.append(next_evaluation(train, whole, steps[-1]))
    assert steps[1:] == expected


def test_a_loss_lower_by_less_than_a_ten_thousandth_is_no_progress() -> None:
    schedule = Plateau(warmup_epochs=0)
    state = after_evaluation(schedule, BASE, ScheduleState(), LONG, 1, 1.0)
    assert after_evaluation(schedule, BASE, state, LONG, 2, 1 - 0.9e-4).bad_evaluations == 1
    assert after_evaluation(schedule, BASE, state, LONG, 2, 1 - 1.1e-4).bad_evaluations == 0


def test_an_infinite_loss_is_no_progress() -> None:
    schedule = Plateau(warmup_epochs=0)
    state = after_evaluation(schedule, BASE, ScheduleState(), LONG, 1, 1.0)
    assert after_evaluation(schedule, BASE, state, LONG, 2, math.inf).bad_evaluations == 1
