"""What a network for points in the plane decides, everywhere around its data."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.errors import GpuqError

Floats = NDArray[np.float32]

_BATCH = 16_384  # points of the grid in one forward pass


@dataclass(frozen=True)
class Boundary:
    """Class probabilities on a grid, and the data they are drawn under."""

    x: Floats  # (grid,)
    y: Floats  # (grid,)
    probabilities: Floats  # (grid, grid, classes): [i, j] belongs to the point (x[j], y[i])
    points: Floats  # (N, 2)
    labels: NDArray[np.int64]  # (N,)

    @property
    def classes(self) -> int:
        return int(self.probabilities.shape[-1])


@torch.no_grad()
def evaluate(
    network: nn.Module,
    points: Tensor,
    labels: Tensor,
    to_inputs: Callable[[Tensor], Tensor],
    *,
    grid: int = 300,
    margin: float = 0.1,
) -> Boundary:
    """The softmax of a network over the extent of points `(N, 2)`, labels `(N,)`, plus a margin on each side.

    `to_inputs` turns raw points `(M, 2)`, on the device of `points`, into what the network takes. The margin is a
    share of the larger side. The network's mode is the caller's. Raises GpuqError for data that are not points in
    the plane, and for outputs that are not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise GpuqError(f"a decision boundary needs points of 2 coordinates, not data of shape {tuple(points.shape)}")
    x, y = _axes(points, grid, margin)
    around = torch.cartesian_prod(y, x).flip(1)
    probabilities = torch.cat([network(to_inputs(some)).float().softmax(1) for some in torch.split(around, _BATCH)])
    if not probabilities.isfinite().all():
        raise GpuqError("the network's outputs around the data are not finite: it has no decision boundary to draw")
    return Boundary(
        x=x.cpu().numpy(),
        y=y.cpu().numpy(),
        probabilities=probabilities.reshape(grid, grid, -1).cpu().numpy(),
        points=points.cpu().numpy(),
        labels=labels.cpu().numpy(),
    )


def _axes(points: Tensor, grid: int, margin: float) -> tuple[Tensor, Tensor]:
    """Evenly spaced coordinates `(grid,)` of both axes, from below the lowest point to above the highest."""
    low, high = points.float().aminmax(dim=0)
    extra = margin * (float((high - low).max()) or 1.0)  # points that are all the same have no side
    ends = torch.stack([low - extra, high + extra], dim=1).tolist()
    x, y = (torch.linspace(start, end, grid, device=points.device) for start, end in ends)
    return x, y
