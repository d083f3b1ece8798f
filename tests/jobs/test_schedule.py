"""Every learning rate, epoch for epoch, against torch's schedulers and against factors computed by hand."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from jobs.schedule import ScheduleState, after_epoch, is_over, rate
from jobs.spec import Constant, Cosine, Plateau, Schedule, Steps

PROPERTY = settings(deadline=None, max_examples=100, derandomize=True)
BASE = 0.05


def optimizer(lr: float = BASE) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def epoch_rate(schedule: Schedule, state: ScheduleState, epochs: int = 100, base: float = BASE) -> float:
    return rate(schedule, base, state, epochs=epochs, step=0, steps_per_epoch=1)


def rates(schedule: Schedule, epochs: int) -> list[float]:
    return [epoch_rate(schedule, ScheduleState(epoch=epoch), epochs) for epoch in range(epochs)]


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
    for loss in losses:
        assert epoch_rate(schedule, state) == pytest.approx(expected.param_groups[0]["lr"], rel=1e-12)
        scheduler.step(loss)
        state = after_epoch(schedule, BASE, state, loss)
    assert epoch_rate(schedule, state) == pytest.approx(expected.param_groups[0]["lr"], rel=1e-12)


def test_plateau_does_not_watch_the_loss_while_the_rate_warms_up() -> None:
    schedule = Plateau(warmup_epochs=3, patience=0)
    state = ScheduleState()
    for loss in (0.1, 9.0, 9.0, 5.0):  # the first after the warmup is the one to beat
        state = after_epoch(schedule, BASE, state, loss)
    assert state == ScheduleState(epoch=4, scale=1.0, best_loss=5.0, bad_epochs=0)


def test_plateau_training_ends_once_the_rate_is_below_its_lowest() -> None:
    schedule = Plateau(warmup_epochs=0, patience=0, factor=0.1, min_lr=1e-3)
    ends = []
    state = ScheduleState()
    for _ in range(4):
        state = after_epoch(schedule, BASE, state, 1.0)
        ends.append(is_over(schedule, BASE, state, epochs=100))
    assert ends == [False, False, True, True]  # 0.05, 0.005, 0.0005


def test_the_study_s_plateau_can_fall_below_its_lowest_rate() -> None:
    state = ScheduleState()
    schedule = Plateau()
    while not is_over(schedule, BASE, state, epochs=200):
        state = after_epoch(schedule, BASE, state, 1.0)
    assert state.epoch == 5 + 1 + 19 * 5  # warmup, one to beat, and five without progress for each of 19 halvings
    assert epoch_rate(schedule, state) < 1e-7


@PROPERTY
@given(epochs=st.integers(1, 60), final=st.sampled_from([0.0, 1e-5, 0.01]))
def test_cosine_is_cosine_annealing(epochs: int, final: float) -> None:
    expected = optimizer()
    scheduler = CosineAnnealingLR(expected, T_max=epochs, eta_min=final)
    known = torch_rates(expected, scheduler, epochs)
    assert rates(Cosine(final_lr=final), epochs) == pytest.approx(known, rel=1e-9, abs=1e-15)


def test_cosine_falls_over_the_epochs_after_the_warmup() -> None:
    after_warmup = rates(Cosine(warmup_epochs=4), 24)[4:]
    assert after_warmup == pytest.approx(rates(Cosine(), 20), rel=1e-12)


@PROPERTY
@given(milestones=st.sets(st.integers(1, 60), min_size=1, max_size=5), factor=st.sampled_from([0.1, 0.5]))
def test_steps_is_multi_step(milestones: set[int], factor: float) -> None:
    expected = optimizer()
    scheduler = MultiStepLR(expected, sorted(milestones), gamma=factor)
    known = torch_rates(expected, scheduler, 60)
    assert rates(Steps(milestones=tuple(sorted(milestones)), factor=factor), 60) == pytest.approx(known, rel=1e-12)


def test_a_constant_rate_stays() -> None:
    assert rates(Constant(), 5) == [BASE] * 5


@pytest.mark.parametrize("schedule", [Plateau(warmup_epochs=2), Cosine(warmup_epochs=2), Constant(warmup_epochs=2)])
def test_the_warmup_rises_by_equal_steps_to_the_base_rate(schedule: Schedule) -> None:
    warm = [
        rate(schedule, 0.8, ScheduleState(epoch=epoch), epochs=10, step=step, steps_per_epoch=4)
        for epoch in range(2)
        for step in range(4)
    ]
    assert warm == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], rel=1e-12)


def test_training_ends_after_its_epochs() -> None:
    ends = [is_over(Cosine(), BASE, ScheduleState(epoch=epoch), epochs=3) for epoch in range(5)]
    assert ends == [False, False, False, True, True]


def test_a_loss_lower_by_less_than_a_ten_thousandth_is_no_progress() -> None:
    schedule = Plateau(warmup_epochs=0)
    state = after_epoch(schedule, BASE, ScheduleState(), 1.0)
    assert after_epoch(schedule, BASE, state, 1 - 0.9e-4).bad_epochs == 1
    assert after_epoch(schedule, BASE, state, 1 - 1.1e-4).bad_epochs == 0


def test_an_infinite_loss_is_no_progress() -> None:
    schedule = Plateau(warmup_epochs=0)
    state = after_epoch(schedule, BASE, ScheduleState(), 1.0)
    assert after_epoch(schedule, BASE, state, math.inf).bad_epochs == 1
