"""Gradient flow: what is recorded of the gradients between two lines of metrics."""

import math
from collections.abc import Iterable

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from jobs.diagnostics.gradient_flow import GradientFlow
from jobs.run_dir import FlowLine
from jobs.trace import make_fake

torch.set_num_threads(1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def give_gradients(to: nn.Module, value: float) -> None:
    """Every gradient as large as `value` everywhere, with changing signs."""
    for parameter in to.parameters():
        signs = torch.ones(parameter.numel())
        signs[::2] = -1
        parameter.grad = (value * signs).view_as(parameter)


def recorded(steps: Iterable[float]) -> GradientFlow:
    made = network()
    flow = GradientFlow(made)
    for value in steps:
        give_gradients(made, value)
        flow.add()
    return flow


def test_weights_alone_are_recorded_in_the_networks_order() -> None:
    assert list(recorded([1.0]).read()) == ["0.weight", "3.weight"]


def test_a_real_backward_passs_gradients_are_averaged_over_all_their_elements() -> None:
    torch.manual_seed(0)
    made = network().to(memory_format=torch.channels_last)
    made(torch.randn(4, 1, 4, 4)).square().mean().backward()
    flow = GradientFlow(made)
    flow.add()
    expected = {name: made.get_parameter(name).grad.abs().mean().item() for name in ("0.weight", "3.weight")}  # type: ignore[union-attr]
    assert flow.read() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=5))
def test_steps_count_alike(steps: list[float]) -> None:
    assert recorded(steps).read() == pytest.approx(dict.fromkeys(("0.weight", "3.weight"), sum(steps) / len(steps)))


def test_gradients_that_nearly_vanish_are_recorded_as_they_are() -> None:
    assert recorded([1e-30]).read()["0.weight"] == pytest.approx(1e-30)


def test_a_weight_without_gradient_counts_as_zero() -> None:
    made = network()
    flow = GradientFlow(made)
    give_gradients(made, 2.0)
    flow.add()
    made.get_parameter("0.weight").grad = None
    flow.add()
    assert flow.read() == pytest.approx({"0.weight": 1.0, "3.weight": 2.0})


def test_a_gradient_that_is_not_finite_is_told_as_none() -> None:
    assert recorded([1.0, math.inf]).read() == {"0.weight": None, "3.weight": None}


def test_a_line_is_read_again_as_it_was_written() -> None:
    line = FlowLine(epoch=1, step=2, mean_absolute={"0.weight": 0.5, "3.weight": None})
    assert msgspec.json.decode(msgspec.json.encode(line), type=FlowLine) == line


def test_after_a_reset_earlier_steps_no_longer_count() -> None:
    made = network()
    flow = GradientFlow(made)
    give_gradients(made, 5.0)
    flow.add()
    flow.reset()
    give_gradients(made, 1.0)
    flow.add()
    assert flow.read() == pytest.approx({"0.weight": 1.0, "3.weight": 1.0})


def test_before_the_first_step_everything_is_zero() -> None:
    assert recorded([]).read() == {"0.weight": 0.0, "3.weight": 0.0}


def test_values_are_all_that_a_checkpoint_must_keep() -> None:
    resumed = GradientFlow(network())
    resumed.values.copy_(recorded([1.0, 4.0]).values)
    assert resumed.read() == pytest.approx({"0.weight": 2.5, "3.weight": 2.5})


def test_a_network_without_weights_has_nothing_to_tell() -> None:
    flow = GradientFlow(nn.BatchNorm2d(2))
    flow.add()
    assert flow.read() == {}


def test_the_memory_trace_can_run_it_on_tensors_without_data() -> None:
    made, fake = network(), FakeTensorMode()
    make_fake(made, fake)
    with fake:
        flow = GradientFlow(made)
        made(torch.empty(4, 1, 4, 4)).sum().backward()
        flow.add()
    assert flow.values.shape == (3,)
