"""resnet-N and plainnet-N of He et al. 2015 (arXiv:1512.03385, section 4.2), and the plain cnn beside them.

A 3×3 convolution, three groups of n blocks of two convolutions with 16, 32 and 64 filters at full, half and quarter
size, global average pool, linear: N = 6n + 2 layers. plainnet-N is resnet-N without its skips.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Block, conv_bn, conv_bn_relu
from models.initialisation import kaiming_normal
from models.options import BaselineOptions, CifarResnetOptions
from models.stages import image_channels

GROUPS = 3


class BasicBlock(Block):
    """conv3 → BN → ReLU → conv3 → BN, plus the input where `skip`, → ReLU.

    More out than in channels halve the map, rounding up. The skip has no parameters: it is then average-pooled, and
    zeros stand for the channels that the input lacks.
    """

    def __init__(self, in_channels: int, out_channels: int, *, skip: bool) -> None:
        super().__init__(in_channels, out_channels)
        stride = 1 if in_channels == out_channels else 2
        self.body = nn.Sequential(
            conv_bn_relu(in_channels, out_channels, 3, stride), conv_bn(out_channels, out_channels, 3)
        )
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if self.skip:
            out = out + self._shortcut(x)
        return F.relu(out, inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.in_channels == self.out_channels:
            return x
        pooled = F.avg_pool2d(x, 2, ceil_mode=True)
        return F.pad(pooled, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))


def resnet(options: CifarResnetOptions, input_shape: tuple[int, ...], classes: int, *, depth: int) -> nn.Module:
    """A residual network of `depth` = 6n + 2 layers."""
    return _groups(depth, options.width, input_shape, classes, skip=True)


def plainnet(options: CifarResnetOptions, input_shape: tuple[int, ...], classes: int, *, depth: int) -> nn.Module:
    """The same without skips."""
    return _groups(depth, options.width, input_shape, classes, skip=False)


def _groups(depth: int, width: int, input_shape: tuple[int, ...], classes: int, *, skip: bool) -> nn.Module:
    network = nn.Sequential(conv_bn_relu(image_channels(input_shape), width, 3))
    channels = width
    for group in range(GROUPS):
        for _ in range((depth - 2) // 6):
            network.append(BasicBlock(channels, width * 2**group, skip=skip))
            channels = width * 2**group
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)])
    kaiming_normal(network)
    return network


def cnn(options: BaselineOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """4 times conv3 → ReLU → BN → max-pool 2, doubling the channels, then two linear layers with dropout between.

    The study's 32×32 pixels come out of the last pool as 2×2; other sizes are averaged to that.
    """
    channels = image_channels(input_shape)
    network = nn.Sequential()
    for out_channels in (options.width * multiple for multiple in (1, 2, 4, 8)):
        convolution = nn.Conv2d(channels, out_channels, 3, padding=1)
        network.extend([convolution, nn.ReLU(inplace=True), nn.BatchNorm2d(out_channels), nn.MaxPool2d(2)])
        channels = out_channels
    network.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, channels), nn.ReLU(inplace=True)])
    return network.extend([nn.Dropout(0.5), nn.Linear(channels, classes)])
