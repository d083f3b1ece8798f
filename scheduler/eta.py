"""How long a job still takes, from the epochs it has measured. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from jobs.run_dir import Metrics

RECENT_EPOCHS = 10


def remaining_s(lines: Sequence[Metrics], epochs: int) -> float:
    """Seconds until the last epoch, at the median pace of the recent ones; a plateau may end training earlier.

    `lines` holds at least one epoch, oldest first.
    """
    recent = lines[-RECENT_EPOCHS - 1 :]
    paces = [(later.elapsed_s - sooner.elapsed_s) / (later.epoch - sooner.epoch) for sooner, later in pairwise(recent)]
    pace = median(paces) if paces else lines[-1].elapsed_s / lines[-1].epoch
    return max(0.0, pace * (epochs - lines[-1].epoch))
