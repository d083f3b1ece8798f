"""Are two samples from the same distribution? A two-sample Kolmogorov–Smirnov test, by hand."""

import math

import torch
from torch import Tensor

# The critical value at a significance of 0.001, in units of sqrt(1/n + 1/m) (Smirnov 1948); conservative for
# discrete distributions. Samples are seeded, so a test passes always or never.
CRITICAL = math.sqrt(-math.log(0.001 / 2) / 2)


def ks_excess(ours: Tensor, theirs: Tensor) -> float:
    """The greatest distance between the empirical distributions, over its critical value: differ when > 1."""
    ours, theirs = ours.double().sort().values, theirs.double().sort().values
    points = torch.cat([ours, theirs])
    below_ours = torch.searchsorted(ours, points, right=True) / len(ours)
    below_theirs = torch.searchsorted(theirs, points, right=True) / len(theirs)
    distance = (below_ours - below_theirs).abs().max().item()
    return distance / (CRITICAL * math.sqrt(1 / len(ours) + 1 / len(theirs)))
