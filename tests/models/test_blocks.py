"""Blocks: what they cost, what they compute, and how they compose."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.blocks import Block, Bottleneck, Branch, Chain, DoubleEncodeBottleneck, Highway, Residual
from models.macs import block_macs, convolution_macs, count_parameters

few = settings(deadline=None, max_examples=12, derandomize=True)
small = st.integers(1, 5)
sides = st.integers(1, 20)


def zeroed(block: Block) -> Block:
    """The block with its convolutions silenced, in evaluation mode: only skips carry anything."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    return block.eval()


@st.composite
def any_block(draw: st.DrawFn, channels: int = 8) -> Block:
    make: Callable[[], Block] = draw(
        st.sampled_from(
            [
                lambda: Residual(channels),
                lambda: Bottleneck(channels, 4),
                lambda: DoubleEncodeBottleneck(channels, 2, 2),
                lambda: Highway([Bottleneck(channels, 2), Residual(channels)]),
                lambda: Branch([Residual(channels), Bottleneck(channels, 8)], combine="average"),
            ]
        )
    )
    return make()


@few
@given(channels=st.integers(1, 40), height=sides, width=sides)
def test_residual_costs_18_hwc2(channels: int, height: int, width: int) -> None:
    counted = convolution_macs(Residual(channels), (channels, height, width))
    assert counted == 18 * height * width * channels**2


@few
@given(inner=small, n=st.integers(1, 9), height=sides, width=sides)
def test_bottleneck_costs_what_the_study_says(inner: int, n: int, height: int, width: int) -> None:
    channels = inner * n
    counted = convolution_macs(Bottleneck(channels, n), (channels, height, width))
    assert counted == (Fraction(2, n) + Fraction(9, n**2)) * height * width * channels**2


@few
@given(inner=small, n=st.integers(1, 6), m=st.integers(1, 6), height=sides, width=sides)
def test_deb_costs_what_the_study_says(inner: int, n: int, m: int, height: int, width: int) -> None:
    channels = inner * n * m
    counted = convolution_macs(DoubleEncodeBottleneck(channels, n, m), (channels, height, width))
    share = Fraction(2, n) + Fraction(2, m * n**2) + Fraction(9, m**2 * n**2)
    assert counted == share * height * width * channels**2


@pytest.mark.parametrize(
    ("block", "share"),
    [(Bottleneck(64, 8), Fraction(25, 64)), (DoubleEncodeBottleneck(64, 4, 2), Fraction(45, 64))],
)
def test_the_studys_worked_examples(block: Block, share: Fraction) -> None:
    assert convolution_macs(block, (64, 10, 6)) == share * 10 * 6 * 64**2


@few
@given(blocks=st.lists(any_block(), min_size=1, max_size=4), side=sides)
def test_a_highway_costs_the_sum_of_its_blocks(blocks: list[Block], side: int) -> None:
    shape = (8, side, side)
    assert convolution_macs(Highway(blocks), shape) == sum(convolution_macs(block, shape) for block in blocks)


@few
@given(
    branches=st.lists(any_block(), min_size=1, max_size=4),
    combine=st.sampled_from(["concatenate", "average"]),
    normalise=st.booleans(),
)
def test_a_branch_block_costs_the_sum_of_its_branches(
    branches: list[Block], combine: Literal["concatenate", "average"], normalise: bool
) -> None:
    shape = (8, 5, 7)
    branch = Branch(branches, combine=combine, normalise=normalise)
    assert convolution_macs(branch, shape) == sum(convolution_macs(block, shape) for block in branches)


@few
@given(block=any_block(), batch=st.integers(2, 4), height=sides, width=sides)
def test_a_block_returns_the_channels_it_declares_and_keeps_the_size(
    block: Block, batch: int, height: int, width: int
) -> None:
    x = torch.randn(batch, block.in_channels, height, width)
    assert block(x).shape == (batch, block.out_channels, height, width)


@pytest.mark.parametrize("block", [Residual(8), Bottleneck(8, 4), DoubleEncodeBottleneck(8, 2, 2)])
def test_a_blocks_skip_carries_its_input(block: Block) -> None:
    x = torch.rand(2, 8, 4, 4)
    torch.testing.assert_close(zeroed(block)(x), x)


@pytest.mark.parametrize("block", [Residual(8), Bottleneck(8, 4)])
def test_residual_blocks_and_bottlenecks_activate_the_sum(block: Block) -> None:
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(zeroed(block)(x), x.relu())


def test_a_deb_activates_before_it_adds_its_input() -> None:
    x = torch.randn(2, 8, 4, 4)
    block = DoubleEncodeBottleneck(8, 2, 2)
    assert (block(x) >= x).all()
    assert (block(x) < 0).any()


def test_a_highway_adds_its_input_to_what_its_blocks_return() -> None:
    x = torch.rand(2, 8, 4, 4)
    blocks = [Bottleneck(8, 2), Residual(8)]
    highway = Highway(blocks).eval()
    torch.testing.assert_close(highway(x), blocks[1](blocks[0](x)) + x)


def test_concatenated_branches_lie_one_after_another() -> None:
    x = torch.rand(2, 8, 4, 4)
    branches: list[Block] = [Bottleneck(8, 2), Residual(8)]
    block = Branch(branches, combine="concatenate").eval()
    torch.testing.assert_close(block(x), torch.cat([branches[0](x), branches[1](x)], dim=1))


def test_averaged_branches_may_add_the_input() -> None:
    x = torch.rand(2, 8, 4, 4)
    branches = [Bottleneck(8, 2), Residual(8), Residual(8)]
    block = Branch(branches, combine="average", add_input=True).eval()
    torch.testing.assert_close(block(x), sum(branch(x) for branch in branches) / 3 + x)


def test_normalised_branches_have_no_mean_and_unit_variance_in_each_channel() -> None:
    block = Branch([Residual(8), Bottleneck(8, 2)], combine="concatenate", normalise=True)
    out = block(torch.randn(16, 8, 6, 6))
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=(0, 2, 3), unbiased=False), torch.ones(16), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bottleneck(10, 4), "10 channels cannot be divided by 4"),
        (lambda: DoubleEncodeBottleneck(8, 4, 4), "2 channels cannot be divided by 4"),
        (lambda: Chain([]), "at least one block"),
        (lambda: Chain([Residual(4), Residual(8)]), "8 channels cannot follow 4"),
        (lambda: Highway([Branch([Residual(4)] * 2, combine="concatenate")]), "cannot skip from 4 to 8"),
        (lambda: Branch([Residual(4), Residual(8)], combine="average"), "take the same channels"),
        (lambda: Branch([], combine="average"), "take the same channels"),
        (lambda: Branch([Residual(4)], combine="concatenate", add_input=True), "averaged branches only"),
        (
            lambda: Branch([Residual(4), Branch([Residual(4)] * 2, combine="concatenate")], combine="average"),
            "return the same channels",
        ),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(make: Callable[[], Block], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_convolution_is_followed_by_batch_norm_and_has_no_bias() -> None:
    block = DoubleEncodeBottleneck(8, 2, 2)
    assert all(module.bias is None for module in block.modules() if isinstance(module, nn.Conv2d))
    kinds = [type(module) for module in block.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d] * 5


def test_counting_knows_stride_and_groups_and_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(8))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert convolution_macs(module, (4, 8, 8)) == (4 * 4) * 8 * (4 // 2) * 9
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_block_macs_leave_out_convolutions_outside_blocks_and_count_nested_blocks_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Highway([Highway([Residual(8)])]))
    assert block_macs(network, (3, 4, 4)) == 18 * 16 * 8**2


def test_parameters_are_counted_once_each() -> None:
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 3 * 4 + 4
