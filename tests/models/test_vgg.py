"""VGG08 and VGG38: sizes, batch norm and skips."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.macs import count_parameters
from models.options import VggOptions
from models.registry import build
from models.vgg import VggBlock, processing, reduction


def on_meta(name: str, options: dict[str, object]) -> nn.Module:
    with torch.device("meta"):
        return build(name, options, input_shape=(3, 32, 32), classes=100)


def silenced(block: VggBlock) -> VggBlock:
    """The block with nothing coming out of its body: only the skip carries anything."""
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    return block.eval()


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("vgg08", {}, 59_652),
        ("vgg38", {}, 336_132),
        ("vgg38", {"bn": True}, 338_500),
        ("vgg38", {"rc": True}, 336_132),
        ("vgg38", {"bn": True, "rc": True}, 338_500),
        ("vgg38", {"down_skip": "pool"}, 336_132),
        ("vgg38", {"down_skip": "conv"}, 336_132 + 3 * 32 * 32),
    ],
)
def test_sizes_with_the_studys_hundred_classes(name: str, options: dict[str, object], count: int) -> None:
    assert count_parameters(on_meta(name, options)) == count


@pytest.mark.parametrize(("name", "processing_blocks"), [("vgg08", 0), ("vgg38", 5)])
def test_each_of_three_stages_ends_in_a_reduction(name: str, processing_blocks: int) -> None:
    pools = [
        any(isinstance(module, nn.AvgPool2d) for module in block.modules())
        for block in on_meta(name, {}).children()
        if isinstance(block, VggBlock)
    ]
    assert pools == [*[False] * processing_blocks, True] * 3


def test_batch_norm_follows_each_convolution() -> None:
    modules = [type(module) for module in on_meta("vgg38", {"bn": True, "down_skip": "conv"}).modules()]
    after = [modules[index + 1] for index, kind in enumerate(modules) if kind is nn.Conv2d]
    assert after == [nn.BatchNorm2d] * (37 + 3)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    bn=st.booleans(),
    rc=st.booleans(),
    down_skip=st.sampled_from(["none", "conv", "pool"]),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
)
def test_every_combination_of_options_takes_any_size(
    bn: bool, rc: bool, down_skip: str, height: int, width: int
) -> None:
    options = {"bn": bn, "rc": rc, "down_skip": down_skip}
    assert on_meta("vgg38", options)(torch.empty(2, 3, height, width, device="meta")).shape == (2, 100)


def test_rc_adds_the_input_before_the_last_activation() -> None:
    x = torch.randn(2, 4, 6, 6)
    block = silenced(processing(VggOptions(width=4, rc=True)))
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(x))


@pytest.mark.parametrize("block", [processing(VggOptions(width=4)), reduction(VggOptions(width=4, rc=True))])
def test_without_a_skip_nothing_passes_a_silenced_body(block: VggBlock) -> None:
    assert not silenced(block)(torch.randn(2, 4, 6, 6)).any()


def test_a_reduction_may_skip_by_pooling() -> None:
    x = torch.randn(2, 4, 6, 6)
    block = silenced(reduction(VggOptions(width=4, down_skip="pool")))
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(nn.functional.avg_pool2d(x, 2)))


def test_a_reduction_may_skip_by_a_1x1_convolution() -> None:
    x = torch.randn(2, 4, 6, 6)
    block = silenced(reduction(VggOptions(width=4, down_skip="conv")))
    assert isinstance(block.skip, nn.Conv2d)
    expected = nn.functional.conv2d(x[:, :, ::2, ::2], block.skip.weight)
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(expected))


@pytest.mark.parametrize("down_skip", ["none", "conv", "pool"])
def test_gradients_reach_every_parameter_with_all_options(down_skip: Literal["none", "conv", "pool"]) -> None:
    options = {"width": 8, "bn": True, "rc": True, "down_skip": down_skip}
    network = build("vgg38", options, input_shape=(3, 16, 16), classes=10)
    torch.autograd.backward(nn.functional.cross_entropy(network(torch.randn(8, 3, 16, 16)), torch.arange(8)))
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
