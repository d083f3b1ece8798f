"""Plain convolutional networks: groups of conv3-BN-ReLU, max-pool 2 between groups, then the plan's head.

At their default widths, with three channels and ten classes, they have about 130 thousand, 430 thousand and
1.05 million parameters. The large one is the small one at twice its width, with a fifth convolution.
"""

from __future__ import annotations

from torch import nn

from models.blocks import conv_bn_relu
from models.options import BaselineOptions
from models.stages import head, image_channels

# Channels of each convolution as multiples of the width, one tuple per group.
SMALL = ((1,), (2,), (4,), (8,))
MEDIUM = ((1, 1), (2,), (4,), (4, 4))
LARGE = ((1,), (2,), (4,), (8, 8))


def small(options: BaselineOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """4 convolutions."""
    return _plain(SMALL, options.width, input_shape, classes)


def medium(options: BaselineOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """6 convolutions."""
    return _plain(MEDIUM, options.width, input_shape, classes)


def large(options: BaselineOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """5 convolutions, the last two 8 times the width."""
    return _plain(LARGE, options.width, input_shape, classes)


def _plain(groups: tuple[tuple[int, ...], ...], width: int, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    channels = image_channels(input_shape)
    network = nn.Sequential()
    for index, group in enumerate(groups):
        if index:
            network.append(nn.MaxPool2d(2))
        for multiple in group:
            network.append(conv_bn_relu(channels, multiple * width, 3))
            channels = multiple * width
    return network.append(head(channels, classes))
