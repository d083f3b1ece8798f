"""Learning rates as pure functions of their state.

The rate of an epoch's optimizer steps is `rate(schedule, base_lr, state, step)`; after each epoch the state moves on
with `after_epoch(schedule, base_lr, state, validation_loss)`. A state is a few numbers and lives in the checkpoint.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

from jobs.spec import Constant, Cosine, Plateau, Schedule, Steps

# torch.optim.lr_scheduler.ReduceLROnPlateau's defaults: a loss counts as lower below best × (1 − 1e-4), and a
# decrease of the rate by less than 1e-8 is not made.
_THRESHOLD = 1e-4
_SMALLEST_DECREASE = 1e-8


class ScheduleState(Struct, frozen=True, kw_only=True):
    """What a schedule remembers between epochs."""

    epoch: int = 0  # epochs done
    scale: float = 1.0  # plateau: the rate over the base rate
    best_loss: float | None = None  # plateau: the lowest validation loss so far
    bad_epochs: int = 0  # plateau: epochs since then


def rate(
    schedule: Schedule, base_lr: float, state: ScheduleState, *, epochs: int, step: int, steps_per_epoch: int
) -> float:
    """The learning rate of step `step` (from 0) of epoch `state.epoch` (from 0) of `epochs`.

    The warmup rises linearly by steps: from 0, exclusive, to the base rate at its last step.
    """
    warmup = schedule.warmup_epochs
    if state.epoch < warmup:
        return base_lr * (state.epoch * steps_per_epoch + step + 1) / (warmup * steps_per_epoch)
    match schedule:
        case Plateau():
            return base_lr * state.scale
        case Cosine(final_lr=final_lr):
            done = (state.epoch - warmup) / max(1, epochs - warmup)
            return final_lr + (base_lr - final_lr) * (1 + math.cos(math.pi * done)) / 2
        case Steps(milestones=milestones, factor=factor):
            return base_lr * factor ** sum(milestone <= state.epoch for milestone in milestones)
        case Constant():
            return base_lr


def after_epoch(schedule: Schedule, base_lr: float, state: ScheduleState, validation_loss: float) -> ScheduleState:
    """The state after an epoch that ended with this validation loss.

    A plateau schedule watches the loss once the warmup is over, as ReduceLROnPlateau does.
    """
    done = replace(state, epoch=state.epoch + 1)
    if not isinstance(schedule, Plateau) or state.epoch < schedule.warmup_epochs:
        return done
    if state.best_loss is None or validation_loss < state.best_loss * (1 - _THRESHOLD):
        return replace(done, best_loss=validation_loss, bad_epochs=0)
    if state.bad_epochs < schedule.patience:
        return replace(done, bad_epochs=state.bad_epochs + 1)
    scale = state.scale * schedule.factor
    if base_lr * (state.scale - scale) <= _SMALLEST_DECREASE:
        scale = state.scale
    return replace(done, scale=scale, bad_epochs=0)


def is_over(schedule: Schedule, base_lr: float, state: ScheduleState, epochs: int) -> bool:
    """Whether training ends here: all epochs done, or the plateau's rate below its `min_lr`."""
    return state.epoch >= epochs or (isinstance(schedule, Plateau) and base_lr * state.scale < schedule.min_lr)
