"""How long a job still takes, from the steps it has made. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from jobs.run_dir import Metrics

RECENT_LINES = 10


def remaining_s(lines: Sequence[Metrics], steps: int) -> float:
    """Seconds until the last step, at the median pace between the recent lines; a plateau may end training earlier.

    `lines` holds at least one, oldest first.
    """
    recent = lines[-RECENT_LINES - 1 :]
    paces = [(later.elapsed_s - sooner.elapsed_s) / (later.step - sooner.step) for sooner, later in pairwise(recent)]
    pace = median(paces) if paces else lines[-1].elapsed_s / lines[-1].step
    return max(0.0, pace * (steps - lines[-1].step))
