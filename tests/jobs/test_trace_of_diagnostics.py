"""What diagnostics take is in the estimate: they run inside the job's reservation."""

from __future__ import annotations

import torch
from msgspec.structs import replace
from tiny import job

from jobs.spec import DataSpec, DiagnosticsSpec, JobSpec, ModelSpec, Sgd, TrainSpec
from jobs.trace import DataShape, Trace, trace_job

POINTS = DataShape(train=64, validation=64, test=0, input_shape=(2,), classes=2)
WIDE = JobSpec(
    name="wide",
    model=ModelSpec(name="mlp", options={"width": 500, "depth": 3}),
    data=DataSpec(name="spirals", split="official", augment="none"),
    train=TrainSpec(iterations=1, batch_size=4),
    optimizer=Sgd(momentum=0.0, nesterov=False),
)
WEIGHTS_BYTES = 4 * (2 * 500 + 2 * 500 * 500 + 500 * 2)


def traced(spec: JobSpec, shape: DataShape = POINTS) -> Trace:
    return trace_job(spec, shape, torch.device("cpu"), "fp32")


def test_a_landscape_holds_the_moved_weights_three_times_more() -> None:
    """Where nothing else is large: small batches, and no momentum. Gradients are gone by then."""
    plain = traced(WIDE)
    explored = traced(replace(WIDE, diagnostics=DiagnosticsSpec(landscape=True)))
    beside_weights = explored.training_peak_bytes - plain.parameters_bytes - plain.data_bytes
    assert beside_weights >= 3 * WEIGHTS_BYTES
    assert beside_weights < 3 * WEIGHTS_BYTES + 4 * 500 * 500 * 4  # the drawing of a direction takes a little


def test_a_landscape_changes_nothing_that_is_told_of_the_training() -> None:
    plain = traced(WIDE)
    explored = traced(replace(WIDE, diagnostics=DiagnosticsSpec(landscape=True)))
    told = ("data_bytes", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "parameters")
    assert [getattr(plain, name) for name in told] == [getattr(explored, name) for name in told]


def test_where_training_holds_more_a_landscape_costs_nothing() -> None:
    shape = DataShape(train=160, validation=20, test=20, input_shape=(3, 32, 32), classes=10)
    spec = job("resv1", {"width": 4, "blocks": [1, 1, 1, 1]})
    explored = replace(spec, diagnostics=DiagnosticsSpec(landscape=True))
    assert traced(explored, shape).training_peak_bytes == traced(spec, shape).training_peak_bytes


def test_recording_gradient_flow_takes_a_few_numbers_a_weight() -> None:
    recorded = traced(replace(WIDE, diagnostics=DiagnosticsSpec(gradient_flow=True)))
    assert 0 < recorded.training_peak_bytes - traced(WIDE).training_peak_bytes < 1000
