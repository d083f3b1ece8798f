"""How weights start where torch's own choice is not the study's."""

from __future__ import annotations

from torch import nn


def kaiming_normal(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / fan-in) and zero its bias (He et al. 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
