"""The registered networks: sizes, shapes, gradients, and where they run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.blocks import Block, Bottleneck, Branch, Chain, Highway, Residual
from models.errors import ModelError
from models.macs import block_macs, count_parameters
from models.options import StageOptions
from models.registry import NETWORKS, build

IMAGE = (3, 32, 32)
PARAMETERS = {
    "baseline-130k": 131_290,
    "baseline-430k": 431_786,
    "baseline-large": 1_045_610,
    "resv1": 9_623_786,
    "bn4": 1_035_914,
    "bn8": 694_058,
    "deb": 855_050,
    "hwyv1": 1_035_914,
    "hwyv2": 9_623_786,
    "bv1": 3_088_010,
    "bv2": 1_035_914,
    "bnv1": 3_093_194,
    "bnv2": 1_041_098,
    "alexnet": 3_638_090,
    "vggnet": 1_894_490,
    "vggnet-bn": 1_896_522,
    "deep-vggnet-bn": 3_227_850,
    "resnet": 3_727_474,
    "resnet-deeper": 5_943_794,
    "vgg08": 56_682,
    "vgg38": 333_162,
    "cnn": 654_346,
    "mlp": 64_610,
    "mlp-plain": 65_870,
    "mlp-residual": 65_870,
    "resnet-20": 269_722,
    "plainnet-20": 269_722,
}
EVERY = [*NETWORKS, "resnet-20", "plainnet-20"]
PLAN = [name for name in NETWORKS if issubclass(NETWORKS[name].options, StageOptions)]


def small(name: str) -> dict[str, object]:
    """Options for the smallest useful network of this name."""
    return {"width": 8, "blocks": [1, 1, 1, 1]} if name in PLAN else {"width": 8}


def on_meta(name: str, options: dict[str, object] | None = None) -> nn.Module:
    with torch.device("meta"):
        return build(name, options or {}, input_shape=IMAGE, classes=10)


def widening(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions outside the blocks of a network of the stage plan."""
    outside = [module for module in network.children() if not isinstance(module, Block)]
    return [inner for module in outside for inner in module.modules() if isinstance(inner, nn.Conv2d)]


@pytest.mark.parametrize("name", EVERY)
def test_the_default_networks_sizes_are_pinned(name: str) -> None:
    assert count_parameters(on_meta(name)) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "target"), [("baseline-130k", 130_000), ("baseline-430k", 430_000)])
def test_a_baseline_is_within_3_percent_of_the_size_in_its_name(name: str, target: int) -> None:
    assert count_parameters(on_meta(name)) == pytest.approx(target, rel=0.03)


@pytest.mark.parametrize(("name", "count"), [("baseline-130k", 4), ("baseline-430k", 6), ("baseline-large", 5)])
def test_a_baseline_has_4_to_6_convolutions(name: str, count: int) -> None:
    assert sum(isinstance(module, nn.Conv2d) for module in on_meta(name).modules()) == count


@pytest.mark.parametrize("name", EVERY)
def test_a_default_network_maps_images_to_logits(name: str) -> None:
    logits = on_meta(name)(torch.empty(2, *IMAGE, device="meta"))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name, small(name), input_shape=IMAGE, classes=10)
    loss = nn.functional.cross_entropy(network(torch.randn(8, *IMAGE)), torch.arange(8))
    torch.autograd.backward(loss)
    unreached = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("name", EVERY)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(3)
    first = build(name, small(name), input_shape=IMAGE, classes=10).state_dict()
    torch.manual_seed(3)
    second = build(name, small(name), input_shape=IMAGE, classes=10).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    name=st.sampled_from([name for name in EVERY if name != "alexnet"]),
    channels=st.integers(1, 5),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
    classes=st.integers(1, 200),
)
def test_any_channels_classes_and_size_from_16_pixels_work(
    name: str, channels: int, height: int, width: int, classes: int
) -> None:
    with torch.device("meta"):
        network = build(name, small(name), input_shape=(channels, height, width), classes=classes)
        assert network(torch.empty(2, channels, height, width)).shape == (2, classes)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    name=st.sampled_from(PLAN),
    blocks=st.tuples(*[st.integers(0, 3)] * 4),
    scale=st.integers(1, 3),
)
def test_width_and_blocks_per_stage_are_free(name: str, blocks: tuple[int, ...], scale: int) -> None:
    network = on_meta(name, {"width": 8 * scale, "blocks": blocks})
    assert network(torch.empty(2, *IMAGE, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("shape", [(3, 15, 32), (3, 32, 8), (2,)])
def test_too_small_an_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"resv1: needs images .* at least 16×16 pixels"):
        build("resv1", {}, input_shape=shape, classes=10)


def test_the_plan_is_the_printed_listings() -> None:
    network = on_meta("bn4")
    convolutions = widening(network)
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size) for conv in convolutions] == [
        (3, 32, (5, 5)),
        (32, 64, (5, 5)),
        (64, 128, (3, 3)),
        (128, 256, (3, 3)),
    ]
    runs = [module.body for module in network.children() if isinstance(module, Chain)]
    assert [len(run) for run in runs] == [3, 3, 6, 6]
    assert sum(isinstance(module, nn.MaxPool2d) for module in network.modules()) == 3
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(1024, 64), (64, 10)]


@pytest.mark.parametrize(("name", "kind"), [("hwyv1", Bottleneck), ("hwyv2", Residual)])
def test_each_run_of_blocks_is_one_highway_of_equal_length(name: str, kind: type[Block]) -> None:
    highways = [module for module in on_meta(name).modules() if isinstance(module, Highway)]
    assert [[type(block) for block in highway.body] for highway in highways] == [
        [kind] * count for count in (3, 3, 6, 6)
    ]


def test_a_stage_without_blocks_has_no_highway() -> None:
    network = on_meta("hwyv1", {"blocks": [2, 0, 1, 0]})
    assert sum(isinstance(module, Highway) for module in network.modules()) == 2


@pytest.mark.parametrize(
    ("name", "concatenate", "normalise"),
    [("bv1", True, False), ("bv2", False, False), ("bnv1", True, True), ("bnv2", False, True)],
)
def test_branch_networks_concatenate_or_average_and_add_the_input(
    name: str, concatenate: bool, normalise: bool
) -> None:
    branches = [module for module in on_meta(name).modules() if isinstance(module, Branch)]
    assert [len(branch.branches) for branch in branches] == [3, 3, 6, 6]
    for branch in branches:
        assert (branch.concatenate, branch.add_input) == (concatenate, not concatenate)
        ends = [list(path.modules())[-1] for path in branch.branches if isinstance(path, nn.Sequential)]
        assert len(ends) == (len(branch.branches) if normalise else 0)
        assert all(isinstance(end, nn.BatchNorm2d) for end in ends)


def test_a_highway_network_costs_what_the_network_of_its_blocks_costs() -> None:
    assert block_macs(on_meta("hwyv1"), IMAGE) == block_macs(on_meta("bn4"), IMAGE)
    assert block_macs(on_meta("hwyv2"), IMAGE) == block_macs(on_meta("resv1"), IMAGE)


@pytest.mark.parametrize("name", ["bv1", "bv2", "bnv1", "bnv2"])
def test_branch_networks_blocks_cost_what_bn4s_cost_in_line(name: str) -> None:
    assert block_macs(on_meta(name), IMAGE) == block_macs(on_meta("bn4"), IMAGE)


def test_concatenated_branches_widen_what_the_next_convolution_takes() -> None:
    network = on_meta("bv1", {"branches": [3, 4, 5, 6]})
    assert [conv.in_channels for conv in widening(network)] == [3, 3 * 32, 4 * 64, 5 * 128]


@pytest.mark.parametrize("name", EVERY)
def test_networks_train_in_bfloat16_autocast_and_channels_last(name: str) -> None:
    network = build(name, small(name), input_shape=IMAGE, classes=10).to(memory_format=torch.channels_last)
    images = torch.randn(4, *IMAGE).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    logits.float().sum().backward()
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", EVERY)
def test_networks_can_be_traced_on_fake_tensors(name: str) -> None:
    with FakeTensorMode():
        network = build(name, small(name), input_shape=IMAGE, classes=10)
        network(torch.randn(4, *IMAGE)).sum().backward()
