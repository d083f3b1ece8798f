"""From AlexNet to residual networks: alexnet, vggnet, vggnet-bn, deep-vggnet-bn, resnet, resnet-deeper.

Each is three groups of convolutions or residual blocks with a max-pool 2 after each group, and ends in a 1×1
convolution to the classes and a global average pool. The channels below are those at the default width; another
width scales them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Block, conv_bn, conv_bn_relu
from models.initialisation import kaiming_normal
from models.options import AlexnetOptions, VggnetOptions
from models.stages import image_channels

LEAST_ALEXNET_PIXELS = 24
"""alexnet's large kernels, padded by 1, shrink the map: this leaves a pixel after its last pool."""
# (out channels, kernel) of each convolution, one tuple per pool.
ALEXNET = (((64, 7),), ((192, 5),), ((384, 5), (256, 3), (256, 3)))
# Out channels of each 3×3 convolution, one tuple per pool.
VGGNET = ((8, 16, 64), (32, 192), (64, 384, 256, 256))
DEEP_VGGNET = ((8, 16, 64), (32, 192), (64, 384, *(64, 192, 64, 384) * 2, 256, 256))
STEM = (8, 16, 64)
# (in, mid, out) channels of each residual block, one tuple per pool.
_NARROWING = ((192, 64, 384), (384, 64, 192))
RESNET = (((64, 16, 64),), ((64, 32, 192),), (*_NARROWING * 2, (192, 64, 384), (384, 256, 256)))
RESNET_DEEPER = (*RESNET[:2], (*_NARROWING * 2, (192, 64, 384), *((384, 64, 384),) * 5, (384, 256, 256)))


class ShortcutResidual(Block):
    """conv3 in→mid → BN → ReLU → conv3 mid→out → BN, plus the input, → ReLU.

    Where the channels differ, the input comes through a 1×1 convolution with batch norm.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.body = nn.Sequential(conv_bn_relu(in_channels, mid_channels, 3), conv_bn(mid_channels, out_channels, 3))
        self.shortcut = nn.Identity() if in_channels == out_channels else conv_bn(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def alexnet(options: AlexnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """5 convolutions with biases, kernels 7, 5, 5, 3, 3, padding 1."""
    channels = image_channels(input_shape, LEAST_ALEXNET_PIXELS)
    network = nn.Sequential()
    for group in ALEXNET:
        for count, kernel in group:
            out_channels = count // 64 * options.width
            network.extend([nn.Conv2d(channels, out_channels, kernel, padding=1), nn.ReLU(inplace=True)])
            channels = out_channels
        network.append(nn.MaxPool2d(2))
    return network.append(_head(channels, classes))


def vggnet(options: VggnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """9 convolutions with biases."""
    return _vggnet(VGGNET, options.width, input_shape, classes, bn=False)


def vggnet_bn(options: VggnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """vggnet with batch norm after every convolution but the last."""
    return _vggnet(VGGNET, options.width, input_shape, classes, bn=True)


def deep_vggnet_bn(options: VggnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """vggnet-bn with 8 more convolutions."""
    return _vggnet(DEEP_VGGNET, options.width, input_shape, classes, bn=True)


def resnet(options: VggnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """8 residual blocks."""
    return _resnet(RESNET, options.width, input_shape, classes)


def resnet_deeper(options: VggnetOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """13 residual blocks."""
    return _resnet(RESNET_DEEPER, options.width, input_shape, classes)


def _vggnet(
    groups: tuple[tuple[int, ...], ...], width: int, input_shape: tuple[int, ...], classes: int, *, bn: bool
) -> nn.Module:
    channels = image_channels(input_shape)
    network = nn.Sequential()
    for group in groups:
        for place, out_channels in enumerate(_scaled(group, width), start=1):
            is_last = group is groups[-1] and place == len(group)
            network.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            if bn and not is_last:
                network.append(nn.BatchNorm2d(out_channels))
            network.append(nn.ReLU(inplace=True))
            channels = out_channels
        network.append(nn.MaxPool2d(2))
    return network.append(_head(channels, classes))


def _resnet(
    groups: tuple[tuple[tuple[int, int, int], ...], ...], width: int, input_shape: tuple[int, ...], classes: int
) -> nn.Module:
    channels = image_channels(input_shape)
    network = nn.Sequential()
    for out_channels in _scaled(STEM, width):
        network.append(conv_bn_relu(channels, out_channels, 3))
        channels = out_channels
    for group in groups:
        for block_channels in group:
            block = ShortcutResidual(*_scaled(block_channels, width))
            network.append(block)
            channels = block.out_channels
        network.append(nn.MaxPool2d(2))
    network.append(_head(channels, classes))
    kaiming_normal(network)
    return network


def _scaled(channels: Iterable[int], width: int) -> list[int]:
    """Channels for a first convolution of `width`, given those for one of 8, of which all are multiples."""
    return [count // STEM[0] * width for count in channels]


def _head(channels: int, classes: int) -> nn.Sequential:
    """Feature maps (B, channels, H, W) to logits (B, classes)."""
    return nn.Sequential(nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
