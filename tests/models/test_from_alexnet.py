"""From AlexNet to residual networks: what each is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.from_alexnet import ShortcutResidual
from models.macs import convolution_macs
from models.registry import build

IMAGE = (3, 32, 32)
STUDY = ["alexnet", "vggnet", "vggnet-bn", "deep-vggnet-bn", "resnet", "resnet-deeper"]


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, options, input_shape=IMAGE, classes=10)


def of_kind(network: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kinds)]


def channels(network: nn.Module) -> list[Any]:
    """What every convolution returns, and a P for each max-pool."""
    found = of_kind(network, nn.Conv2d, nn.MaxPool2d)
    return [module.out_channels if isinstance(module, nn.Conv2d) else "P" for module in found]


def blocks(network: nn.Module) -> list[tuple[object, ...]]:
    """(in, mid, out) of every residual block."""
    return [
        (block.in_channels, of_kind(block, nn.Conv2d)[0].out_channels, block.out_channels)
        for block in of_kind(network, ShortcutResidual)
        if isinstance(block, ShortcutResidual)
    ]


def test_the_plain_networks_are_the_studys_listings() -> None:
    vggnet = [8, 16, 64, "P", 32, 192, "P", 64, 384, 256, 256, "P", 10]
    inserted = [64, 192, 64, 384, 64, 192, 64, 384]
    assert channels(on_meta("alexnet")) == [64, "P", 192, "P", 384, 256, 256, "P", 10]
    assert channels(on_meta("vggnet")) == channels(on_meta("vggnet-bn")) == vggnet
    assert channels(on_meta("deep-vggnet-bn")) == [*vggnet[:9], *inserted, *vggnet[9:]]


def test_the_residual_networks_are_the_studys_listings() -> None:
    early = [(64, 16, 64), (64, 32, 192)]
    narrowing = [(192, 64, 384), (384, 64, 192)]
    end = (384, 256, 256)
    assert blocks(on_meta("resnet")) == [*early, *narrowing * 2, (192, 64, 384), end]
    assert blocks(on_meta("resnet-deeper")) == [*early, *narrowing * 2, (192, 64, 384), *[(384, 64, 384)] * 5, end]


def test_alexnets_kernels_are_large_and_padded_by_1() -> None:
    convolutions = [module for module in on_meta("alexnet").modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convolutions] == [7, 5, 5, 3, 3, 1]
    assert {conv.padding for conv in convolutions[:-1]} == {(1, 1)}


@pytest.mark.parametrize(("name", "count"), [("vggnet", 0), ("vggnet-bn", 8), ("deep-vggnet-bn", 16)])
def test_batch_norm_follows_every_convolution_but_the_last(name: str, count: int) -> None:
    features = [type(module) for module in on_meta(name).children()]
    assert features[-4:-1] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    normalised = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert sum(features[i : i + 3] == normalised for i in range(len(features))) == count
    assert features.count(nn.BatchNorm2d) == count


@pytest.mark.parametrize("name", STUDY)
def test_the_head_is_a_1x1_convolution_and_a_global_average(name: str) -> None:
    to_classes, pool, flatten = list(on_meta(name).modules())[-3:]
    assert isinstance(to_classes, nn.Conv2d)
    assert (to_classes.in_channels, to_classes.out_channels, to_classes.kernel_size) == (256, 10, (1, 1))
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    assert pool.output_size == 1
    assert isinstance(flatten, nn.Flatten)


@pytest.mark.parametrize("name", STUDY)
def test_width_is_the_first_convolutions_and_scales_every_other(name: str) -> None:
    studied = channels(on_meta(name))[:-1]
    doubled = channels(on_meta(name, width=2 * studied[0]))[:-1]
    assert doubled == [size if size == "P" else 2 * size for size in studied]


@pytest.mark.parametrize(("shape", "is_projected"), [((8, 4, 8), False), ((8, 4, 12), True)])
def test_a_shortcut_has_parameters_only_where_channels_differ(shape: tuple[int, int, int], is_projected: bool) -> None:
    block = ShortcutResidual(*shape)
    kinds = [type(module) for module in block.shortcut.modules()]
    assert kinds[-2:] == ([nn.Conv2d, nn.BatchNorm2d] if is_projected else [nn.Identity])


def test_a_residual_blocks_skip_carries_its_input() -> None:
    block = ShortcutResidual(8, 4, 8).eval()
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x), x.relu())


def test_a_residual_block_costs_its_three_convolutions() -> None:
    assert convolution_macs(ShortcutResidual(8, 4, 12), (8, 5, 7)) == 35 * (9 * 8 * 4 + 9 * 4 * 12 + 8 * 12)


@pytest.mark.parametrize("name", ["resnet", "resnet-deeper"])
def test_the_residual_networks_start_kaiming_normal_by_fan_in(name: str) -> None:
    for module in build(name, {}, input_shape=IMAGE, classes=10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_only_the_residual_networks_head_has_a_bias() -> None:
    convolutions = [module for module in on_meta("resnet").modules() if isinstance(module, nn.Conv2d)]
    assert [conv.bias is not None for conv in convolutions] == [False] * (len(convolutions) - 1) + [True]


def test_alexnet_takes_images_from_24_pixels() -> None:
    with torch.device("meta"):
        network = build("alexnet", {}, input_shape=(3, 24, 24), classes=10)
        assert network(torch.empty(2, 3, 24, 24)).shape == (2, 10)
    with pytest.raises(ModelError, match=r"alexnet: needs images .* at least 24×24 pixels, got \(3, 23, 32\)"):
        build("alexnet", {}, input_shape=(3, 23, 32), classes=10)
