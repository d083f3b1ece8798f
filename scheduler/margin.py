"""How much a prediction is raised, learned from how past ones did. Pure.

Split conformal prediction (Vovk et al. 2005, "Algorithmic Learning in a Random World"; Angelopoulos & Bates 2021,
arXiv:2107.07511, section 1): if the next ratio of measured to predicted bytes is exchangeable with n past ones, it
exceeds the ⌈(n + 1)(1 − α)⌉-th smallest of them with probability α at most, whatever they are distributed like.
"""

import math
from collections.abc import Sequence

MISCOVERAGE = 0.05  # α: the share of jobs that may need more than their reservation, and then are given more
ENOUGH = math.ceil(1 / MISCOVERAGE) - 1  # fewer ratios than these 19 bear no statement at this level
WINDOW = 60  # the latest ratios that count; in a full window the third that exceeds the margin raises it

# No reservation lies below its prediction, however much past ones exceeded what was needed: on average that is so of
# a mixture of networks, and the next may be one that is predicted to the byte. A little more is for what varies from
# run to run where all ratios so far were the same.
SMALLEST = 0.02
# Beyond it, another attempt with half as much again costs one job less than such a margin costs all of them.
LARGEST = 0.5


def learned(ratios: Sequence[float], prior: float) -> float:
    """The margin that covers a prediction, as a share of it, from past ratios of measured to predicted bytes.

    As long as there are fewer than ENOUGH ratios, the missing ones are presumed to have been at the prior margin: until
    then it is the prior, or the largest excess if that is more.
    """
    excesses = [ratio - 1 for ratio in ratios]
    presumed = [prior] * (ENOUGH - len(ratios))
    return min(LARGEST, max(SMALLEST, conformal_quantile([*excesses, *presumed])))


def conformal_quantile(scores: Sequence[float], miscoverage: float = MISCOVERAGE) -> float:
    """The score that the next one exceeds with at most this probability; infinite if there are too few to tell."""
    rank = math.ceil((len(scores) + 1) * (1 - miscoverage))
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf
