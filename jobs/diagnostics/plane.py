"""A plane through a network's weights along two random directions.

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets" (arXiv:1712.09913), section 4: each filter of a
direction is as long as the network's own, so that scaling a layer's weights does not change the picture.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from jobs.errors import GpuqError


class Plane:
    """The points θ + α·first + β·second, θ being the weights that the network has now.

    Moved are the parameters of two and more dimensions; biases and those of batch norm stay. Raises GpuqError if
    there are none.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = [parameter.detach() for parameter in network.parameters() if parameter.ndim >= 2]
        if not self.weights:
            raise GpuqError("the network has no weights of two or more dimensions to move")
        self.origin = [weight.clone() for weight in self.weights]
        self.first = [random_direction(weight, generator) for weight in self.weights]
        self.second = [random_direction(weight, generator) for weight in self.weights]

    @torch.no_grad()
    def losses(self, points: Iterable[tuple[float, float]], evaluate: Callable[[], float]) -> list[float]:
        """What `evaluate` gives at each point (α, β). The weights are back at θ afterwards, also if it raises."""
        losses = []
        try:
            for alpha, beta in points:
                self._move(alpha, beta)
                losses.append(evaluate())
        finally:
            torch._foreach_copy_(self.weights, self.origin)
        return losses

    def _move(self, alpha: float, beta: float) -> None:
        """Go to a point from θ, not from the last point: a loss does not depend on the way there."""
        torch._foreach_copy_(self.weights, self.origin)
        torch._foreach_add_(self.weights, self.first, alpha=alpha)
        torch._foreach_add_(self.weights, self.second, alpha=beta)


def random_direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers in the shape `(filters, ...)` of a weight, each filter as long as the weight's own.

    They are drawn on the CPU, so that every device gets the same; the result lies in memory as the weight does.
    """
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    scale = _filter_norms(weight.cpu().float()) / _filter_norms(drawn).clamp_min(torch.finfo(drawn.dtype).tiny)
    return torch.empty_like(weight).copy_(drawn * scale)


def _filter_norms(weight: Tensor) -> Tensor:
    """Euclidean norms `(filters, 1, ...)` of a weight `(filters, ...)`."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return norms
