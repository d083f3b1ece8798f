"""How weights start where torch's own choice is not the study's. Biases start at 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

Layer = type[nn.Conv2d] | type[nn.Linear]


def kaiming_normal(network: nn.Module, layer: Layer = nn.Conv2d) -> None:
    """Draw every `layer`'s weights from N(0, 2 / fan-in) (He et al. 2015, arXiv:1502.01852)."""
    _draw(network, layer, partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"))


def xavier_normal(network: nn.Module, layer: Layer = nn.Conv2d) -> None:
    """Draw every `layer`'s weights from N(0, 2 / (fan-in + fan-out)) (Glorot and Bengio 2010, equation 12)."""
    _draw(network, layer, nn.init.xavier_normal_)


def _draw(network: nn.Module, layer: Layer, weights: Callable[[Tensor], object]) -> None:
    for module in network.modules():
        if isinstance(module, layer):
            weights(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
