"""Learning rates, and when to evaluate, as pure functions of a step, a length and a state.

A step is the number of optimizer steps done so far. The rate of the next one is `rate(…)`; after each evaluation the
state moves on with `after_evaluation(…)`. A state is a few numbers and lives in the checkpoint.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

from jobs.spec import Constant, Cosine, Plateau, Schedule, Steps, TrainSpec

# torch.optim.lr_scheduler.ReduceLROnPlateau's defaults: a loss counts as lower below best × (1 − 1e-4), and a
# decrease of the rate by less than 1e-8 is not made.
_THRESHOLD = 1e-4
_SMALLEST_DECREASE = 1e-8


class Length(Struct, frozen=True, kw_only=True):
    """How long a training is: so many units, epochs or iterations, in which its schedule counts, too."""

    units: int
    steps_per_unit: int  # 1 where iterations are counted
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return self.units * self.steps_per_unit


class ScheduleState(Struct, frozen=True, kw_only=True):
    """What a plateau schedule remembers between evaluations."""

    scale: float = 1.0  # the rate over the base rate
    best_loss: float | None = None  # the lowest validation loss so far
    bad_evaluations: int = 0  # since then


def length(train: TrainSpec, steps_per_epoch: int) -> Length:
    """The length that a job's [train] asks for."""
    if train.iterations is not None:
        return Length(units=train.iterations, steps_per_unit=1, steps_per_epoch=steps_per_epoch)
    assert train.epochs is not None  # TrainSpec sees to it
    return Length(units=train.epochs, steps_per_unit=steps_per_epoch, steps_per_epoch=steps_per_epoch)


def next_evaluation(train: TrainSpec, length: Length, step: int) -> int:
    """The step, after `step`, at which the network is evaluated: each epoch or `evaluate_every`, and at the end."""
    every = train.evaluate_every or length.steps_per_epoch
    return min((step // every + 1) * every, length.steps)


def warmup_steps(schedule: Schedule, length: Length) -> int:
    return schedule.warmup_iterations or schedule.warmup_epochs * length.steps_per_epoch


def rate(schedule: Schedule, base_lr: float, state: ScheduleState, length: Length, step: int) -> float:
    """The learning rate of the step after `step` others.

    The warmup rises linearly from 0, exclusive, to the base rate at its last step, or stays at `warmup_lr`. Cosine
    and steps change at the beginning of an epoch, or with each step where iterations are counted, as torch's
    schedulers do when they are stepped once a unit.
    """
    warmup = warmup_steps(schedule, length)
    if step < warmup:
        return base_lr * (step + 1) / warmup if schedule.warmup_lr is None else schedule.warmup_lr
    unit = step // length.steps_per_unit
    match schedule:
        case Plateau():
            return base_lr * state.scale
        case Cosine(final_lr=final_lr):
            warmup_units = warmup / length.steps_per_unit
            done = max(0.0, unit - warmup_units) / max(1.0, length.units - warmup_units)
            return final_lr + (base_lr - final_lr) * (1 + math.cos(math.pi * done)) / 2
        case Steps(milestones=milestones, factor=factor):
            return base_lr * factor ** sum(milestone <= unit for milestone in milestones)
        case Constant():
            return base_lr


def after_evaluation(
    schedule: Schedule, base_lr: float, state: ScheduleState, length: Length, step: int, validation_loss: float
) -> ScheduleState:
    """The state after an evaluation at `step` that found this validation loss.

    A plateau schedule watches the loss once the warmup is over, as ReduceLROnPlateau does.
    """
    if not isinstance(schedule, Plateau) or step <= warmup_steps(schedule, length):
        return state
    if state.best_loss is None or validation_loss < state.best_loss * (1 - _THRESHOLD):
        return replace(state, best_loss=validation_loss, bad_evaluations=0)
    if state.bad_evaluations < schedule.patience:
        return replace(state, bad_evaluations=state.bad_evaluations + 1)
    scale = state.scale * schedule.factor
    if base_lr * (state.scale - scale) <= _SMALLEST_DECREASE:
        scale = state.scale
    return replace(state, scale=scale, bad_evaluations=0)


def is_over(schedule: Schedule, base_lr: float, state: ScheduleState, length: Length, step: int) -> bool:
    """Whether training ends here: all steps done, or the plateau's rate below its `min_lr`."""
    return step >= length.steps or (isinstance(schedule, Plateau) and base_lr * state.scale < schedule.min_lr)
