"""VGG08 and VGG38: what batch norm and residual connections do for a deep plain network.

An input convolution, three stages of processing blocks and one reduction block each, global average pool, linear.
Every convolution but the input's is width→width; leaky ReLU throughout, after batch norm where there is one.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Block
from models.options import VggOptions
from models.stages import image_channels

STAGES = 3


def vgg08(options: VggOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """No processing blocks."""
    return _vgg(0, options, input_shape, classes)


def vgg38(options: VggOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """5 processing blocks a stage."""
    return _vgg(5, options, input_shape, classes)


class VggBlock(Block):
    """Leaky ReLU of the body's output, plus the skip's where there is a skip."""

    def __init__(self, channels: int, body: nn.Module, skip: nn.Module | None) -> None:
        super().__init__(channels, channels)
        self.body = body
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if self.skip is not None:
            out = out + self.skip(x)
        return F.leaky_relu(out, inplace=True)


def processing(options: VggOptions) -> VggBlock:
    """conv3 → leaky ReLU → conv3, plus the input with `rc`, → leaky ReLU; convolutions without bias."""
    body = nn.Sequential(
        _convolution(options.width, options),
        nn.LeakyReLU(inplace=True),
        _convolution(options.width, options),
    )
    return VggBlock(options.width, body, nn.Identity() if options.rc else None)


def reduction(options: VggOptions) -> VggBlock:
    """conv3 → leaky ReLU → average-pool 2 → conv3, plus the skip of `down_skip`, → leaky ReLU.

    Halves the map, rounding up, so that an odd side fits a 1×1 convolution of stride 2.
    """
    body = nn.Sequential(
        _convolution(options.width, options, bias=True),
        nn.LeakyReLU(inplace=True),
        nn.AvgPool2d(2, ceil_mode=True),
        _convolution(options.width, options, bias=True),
    )
    return VggBlock(options.width, body, _reduction_skip(options))


def _reduction_skip(options: VggOptions) -> nn.Module | None:
    match options.down_skip:
        case "none":
            return None
        case "conv":
            return _convolution(options.width, options, kernel=1, stride=2)
        case "pool":
            return nn.AvgPool2d(2, ceil_mode=True)


def _vgg(blocks: int, options: VggOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    network = nn.Sequential(_convolution(image_channels(input_shape), options), nn.LeakyReLU(inplace=True))
    for _ in range(STAGES):
        network.extend([processing(options) for _ in range(blocks)])
        network.append(reduction(options))
    return network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(options.width, classes)])


def _convolution(
    in_channels: int, options: VggOptions, *, kernel: int = 3, stride: int = 1, bias: bool = False
) -> nn.Module:
    """A "same"-padded convolution to `width` channels, batch-normalised with `bn`."""
    width = options.width
    convolution = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(width)) if options.bn else convolution
