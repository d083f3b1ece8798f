"""Gradient flow: how much gradient reaches each layer, recorded while a job trains."""

import math

import torch
from torch import nn


class GradientFlow:
    """The mean absolute gradient of every weight, averaged over steps; the device is not waited for until `read`.

    Weights are the parameters of two or more dimensions, in the network's order. One without a gradient counts as 0.

    `values` is float64 of shape (weights + 1,), on the network's device: for each weight the sum over the steps of
    its gradient's L1 norm, and last the number of steps. A checkpoint keeps it as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.ndim >= 2]
        self._names = [name for name, _ in named]
        self._weights = [weight for _, weight in named]
        device = next(network.parameters()).device
        self._zero, self._one = torch.zeros((), device=device), torch.ones((), device=device)
        self.values = torch.zeros(len(named) + 1, dtype=torch.float64, device=device)

    def add(self) -> None:
        """Count the gradients of a step; call it between the backward pass and the update."""
        gradients = [self._zero if weight.grad is None else weight.grad for weight in self._weights]
        self.values += torch.stack(torch._foreach_norm([*gradients, self._one], 1))  # the norm of one counts the step

    def read(self) -> dict[str, float | None]:
        """Mean absolute gradients since the last reset, by name; 0 before the first step. Waits for the device."""
        *sums, steps = self.values.tolist()
        counted = max(1.0, steps)
        means = (total / (weight.numel() * counted) for total, weight in zip(sums, self._weights, strict=True))
        return {name: mean if math.isfinite(mean) else None for name, mean in zip(self._names, means, strict=True)}

    def reset(self) -> None:
        self.values.zero_()
