"""The gradient probe: every parameter's gradient on one batch, and whether gradients vanish or explode."""

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import median

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jobs.errors import GpuqError

# Between the networks that train and those that do not, as they are initialised, on batches of 16 to 256 images.
VANISHING = 0.03  # vggnet, which does not learn: ≤ 0.022; vgg08, which does: ≥ 0.040
EXPLODING = 1000.0  # plainnet-56, which learns: ≤ 250; plainnet-110, which hardly does: ≥ 13,000
LEAST_RATIO = 2.0**-24  # a float32 plus less than this part of itself stays what it is
MOST_RATIO = 10.0  # weights ten times too large: ≥ 60; batch norm and Kaiming's initialisation: ≤ 2

VERDICT_RULE = f"""\
A weight tensor's pull is its gradient norm times its weight norm: how far the loss moves when it changes by its \
own size.
vanishing: the median pull of the first third of the tensors is under {VANISHING} of the last third's, or half of the \
gradients are under {LEAST_RATIO:.0e} of their weights, which float32 rounds away
exploding: that pull is over {EXPLODING:,.0f} times the last third's, or half of the gradients are over \
{MOST_RATIO:.0f} times their weights, or something is not finite
healthy: neither"""


class Verdict(StrEnum):
    """What becomes of gradients on their way from the loss to the input."""

    VANISHING = "vanishing"
    HEALTHY = "healthy"
    EXPLODING = "exploding"


class ParameterGradient(Struct, frozen=True, kw_only=True):
    """A parameter tensor and its gradient. Norms are L2; `ratio` is gradient norm / weight norm, None for zeros."""

    name: str
    shape: tuple[int, ...]
    gradient_norm: float
    mean_absolute: float  # of the gradient
    weight_norm: float
    ratio: float | None

    @property
    def is_weight(self) -> bool:
        """Not a bias, nor a scale or shift of batch norm."""
        return len(self.shape) >= 2

    @property
    def pull(self) -> float:
        """The loss's change, to first order and at most, when the tensor changes by its own norm.

        Unlike the gradient, it does not depend on how the weights of neighbouring layers share their scale: without
        biases it is the same in all layers of a plain ReLU network.
        """
        return self.gradient_norm * self.weight_norm


class GradientProbe(Struct, frozen=True, kw_only=True):
    """The loss (cross entropy) of a batch and its gradient by every parameter that has one, in the network's order."""

    loss: float
    verdict: Verdict
    parameters: tuple[ParameterGradient, ...]


def probe(network: nn.Module, images: Tensor, labels: Tensor) -> GradientProbe:
    """Forward, cross entropy and backward on `images` (B, …) and `labels` (B,), all on one device.

    Whether dropout and batch norm work as in training is up to the caller. The network, its statistics and its
    gradients stay as they are. Raises GpuqError if nothing in the network can be trained.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(network, buffers, (images,)), labels)
    if not loss.requires_grad:
        raise GpuqError("no parameter has a gradient: the network has nothing to train")
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = [
        (name, parameter.detach(), gradient)
        for (name, parameter), gradient in zip(trained.items(), gradients, strict=True)
        if gradient is not None
    ]
    norms = torch.stack([_norms(weights, gradient) for _, weights, gradient in found]).tolist()
    rows = tuple(_row(name, tuple(weights.shape), *of) for (name, weights, _), of in zip(found, norms, strict=True))
    return GradientProbe(loss=loss.item(), verdict=judge(loss.item(), rows), parameters=rows)


def judge(loss: float, rows: Sequence[ParameterGradient]) -> Verdict:
    """The verdict of `VERDICT_RULE`, from the parameters' rows in the order of the layers."""
    if not math.isfinite(loss + sum(row.gradient_norm + row.weight_norm for row in rows)):
        return Verdict.EXPLODING
    weights = [row for row in rows if row.is_weight and row.weight_norm > 0]
    if not weights:
        return Verdict.HEALTHY
    ratio = median(row.gradient_norm / row.weight_norm for row in weights)
    third = max(1, len(weights) // 3)
    first, last = (median(row.pull for row in part) for part in (weights[:third], weights[-third:]))
    if ratio > MOST_RATIO or first > EXPLODING * last:
        return Verdict.EXPLODING
    if ratio < LEAST_RATIO or first < VANISHING * last:
        return Verdict.VANISHING
    return Verdict.HEALTHY


def _norms(weights: Tensor, gradient: Tensor) -> Tensor:
    """Gradient norm, mean absolute gradient and weight norm: float64, in which squares of tiny gradients are not 0."""
    return torch.stack(
        [
            torch.linalg.vector_norm(gradient, dtype=torch.float64),
            gradient.abs().mean(dtype=torch.float64),
            torch.linalg.vector_norm(weights, dtype=torch.float64),
        ]
    )


def _row(
    name: str, shape: tuple[int, ...], gradient_norm: float, mean_absolute: float, weight_norm: float
) -> ParameterGradient:
    return ParameterGradient(
        name=name,
        shape=shape,
        gradient_norm=gradient_norm,
        mean_absolute=mean_absolute,
        weight_norm=weight_norm,
        ratio=gradient_norm / weight_norm if weight_norm else None,
    )
