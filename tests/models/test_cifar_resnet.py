"""resnet-N, plainnet-N and cnn: names, depths, skips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.cifar_resnet import BasicBlock
from models.errors import ModelError, UnknownNetworkError
from models.macs import block_macs, count_parameters
from models.registry import NETWORKS, build, check, find, listed, options_type

IMAGE = (3, 32, 32)
few = settings(deadline=None, max_examples=20, derandomize=True)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build(name, {}, input_shape=IMAGE, classes=10)


def silenced(block: BasicBlock) -> BasicBlock:
    """The block with nothing coming out of its body: only the skip carries anything."""
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    return block.eval()


@pytest.mark.parametrize(("depth", "count"), [(8, 75_290), (20, 269_722), (56, 853_018), (110, 1_727_962)])
@pytest.mark.parametrize("family", ["resnet", "plainnet"])
def test_sizes_are_the_same_with_and_without_skips(family: str, depth: int, count: int) -> None:
    assert count_parameters(on_meta(f"{family}-{depth}")) == count


@few
@given(n=st.integers(1, 12), family=st.sampled_from(["resnet", "plainnet"]))
def test_any_depth_6n_plus_2_names_a_network_of_so_many_layers(n: int, family: str) -> None:
    name = f"{family}-{6 * n + 2}"
    layers = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert find(name).name == name
    assert len(layers) == 6 * n + 2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet-21", "20 or 26"),
        ("resnet-25", "20 or 26"),
        ("plainnet-109", "104 or 110"),
        ("plainnet-111", "110 or 116"),
        ("resnet-0", "8 or 14"),
        ("resnet-2", "8 or 14"),
        ("resnet-9", "8 or 14"),
    ],
)
def test_another_depth_is_refused_with_the_two_nearest(name: str, nearest: str) -> None:
    for ask in (find, options_type, on_meta, lambda name: check(name, {})):
        with pytest.raises(ModelError) as refusal:
            ask(name)
        assert str(refusal.value) == f"{name}: depth must be 6n + 2, such as {nearest}"


@pytest.mark.parametrize("name", ["resnt-20", "resnet20", "resnet-2O", "resnet-N", "resnet--20", "resnet-²0"])
def test_a_typo_suggests_a_depth_that_was_studied(name: str) -> None:
    with pytest.raises(UnknownNetworkError) as refusal:
        find(name)
    assert "resnet-20" in refusal.value.nearest


def test_the_studied_depths_are_listed_and_are_no_plain_names() -> None:
    names = [network.name for network in listed()]
    depths = (20, 56, 110)
    assert names == [*NETWORKS, *(f"resnet-{depth}" for depth in depths), *(f"plainnet-{depth}" for depth in depths)]


def test_the_plain_network_is_the_residual_one_without_skips() -> None:
    resnet, plainnet = on_meta("resnet-20"), on_meta("plainnet-20")
    shapes = [{key: weight.shape for key, weight in network.state_dict().items()} for network in (resnet, plainnet)]
    assert shapes[0] == shapes[1]
    assert block_macs(resnet, IMAGE) == block_macs(plainnet, IMAGE)
    for network, has_skip in ((resnet, True), (plainnet, False)):
        assert {module.skip for module in network.modules() if isinstance(module, BasicBlock)} == {has_skip}


def test_three_groups_halve_the_map_and_double_the_filters() -> None:
    maps = torch.empty(2, *IMAGE, device="meta")
    shapes = []
    for module in on_meta("resnet-20").children():
        maps = module(maps)
        if isinstance(module, BasicBlock):
            shapes.append(tuple(maps.shape[1:]))
    assert shapes == [*[(16, 32, 32)] * 3, *[(32, 16, 16)] * 3, *[(64, 8, 8)] * 3]


def test_where_the_shape_changes_the_skip_is_pooled_and_padded_with_zero_channels() -> None:
    x = torch.rand(2, 4, 6, 6)
    out = silenced(BasicBlock(4, 8, skip=True))(x)
    torch.testing.assert_close(out[:, :4], nn.functional.avg_pool2d(x, 2))
    assert not out[:, 4:].any()


def test_elsewhere_the_skip_is_the_input() -> None:
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(silenced(BasicBlock(4, 4, skip=True))(x), x.relu())


def test_nothing_passes_a_silenced_plain_block() -> None:
    assert not silenced(BasicBlock(4, 8, skip=False))(torch.randn(2, 4, 6, 6)).any()


@few
@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_an_odd_map_is_halved_rounding_up(height: int, width: int) -> None:
    with torch.device("meta"):
        out = BasicBlock(4, 8, skip=True)(torch.empty(2, 4, height, width))
    assert out.shape == (2, 8, (height + 1) // 2, (width + 1) // 2)


def test_weights_start_kaiming_normal_by_fan_in() -> None:
    for module in build("resnet-20", {}, input_shape=IMAGE, classes=10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4_000:
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_the_cnn_flattens_1024_values_into_256_and_drops_half_of_those() -> None:
    modules = list(on_meta("cnn").modules())
    linear = [(layer.in_features, layer.out_features) for layer in modules if isinstance(layer, nn.Linear)]
    assert linear == [(1024, 256), (256, 10)]
    assert [layer.p for layer in modules if isinstance(layer, nn.Dropout)] == [0.5]


def test_the_cnn_normalises_after_the_activation() -> None:
    kinds = [type(module) for module in on_meta("cnn").children()]
    assert kinds[:16] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d] * 4
