"""A job's spec: the study's values unless told otherwise, and the same bytes for the same job."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.catalog import POLICY_NAMES
from jobs.spec import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    DataSpec,
    JobSpec,
    LimitsSpec,
    ModelSpec,
    Plateau,
    ResourcesSpec,
    Sgd,
    Steps,
    TrainSpec,
    decode,
    encode,
)
from jobs.units import Interval

PROPERTY = settings(deadline=None, max_examples=100, derandomize=True)

positive = st.integers(1, 2**40)
rates = st.floats(1e-12, 1000)
below_one = st.floats(0, 1, exclude_max=True)
factors = st.floats(1e-6, 0.999)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    plain | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
splits = st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49)).map(lambda two: (1 - sum(two), *two))
specs = st.builds(
    JobSpec,
    name=st.text(min_size=1),
    model=st.builds(ModelSpec, name=st.text(min_size=1), options=st.dictionaries(st.text(), values, max_size=3)),
    priority=st.integers(-1_000_000, 1_000_000),
    data=st.builds(
        DataSpec,
        name=st.sampled_from(["cifar10", "cifar100", "imagefolder", "shapes"]),
        root=st.text(),
        split=splits | st.just("official"),
        limit=st.none() | positive,
        augment=st.sampled_from(POLICY_NAMES),
    ),
    train=st.builds(TrainSpec, epochs=positive, batch_size=positive, seed=st.integers(0, 2**63 - 1)),
    optimizer=st.builds(Sgd, lr=rates, momentum=factors)
    | st.builds(Adam, lr=rates, betas=st.tuples(below_one, below_one))
    | st.builds(AdamW, lr=rates, weight_decay=rates),
    schedule=st.builds(Plateau, factor=factors, patience=positive)
    | st.builds(Cosine, final_lr=rates)
    | st.builds(Steps, milestones=st.sets(positive).map(lambda epochs: tuple(sorted(epochs))))
    | st.builds(Constant, warmup_epochs=positive),
    resources=st.builds(ResourcesSpec, memory=st.none() | st.just("6 GiB"), threads=positive),
    limits=st.builds(LimitsSpec, time=st.none() | st.just("6h"), hang=st.just("90s")),
)


@PROPERTY
@given(specs)
def test_a_spec_reads_back_as_it_was_written(spec: JobSpec) -> None:
    assert decode(encode(spec)) == spec


@PROPERTY
@given(specs)
def test_the_order_in_which_options_were_written_does_not_matter(spec: JobSpec) -> None:
    options = dict(reversed(spec.model.options.items()))
    again = msgspec.structs.replace(spec, model=ModelSpec(name=spec.model.name, options=options))
    assert encode(again) == encode(spec)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"name": "a"}', b'{"name": "a", "model": {"name": 3}}'])
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(text)


def test_the_defaults_are_the_block_study_s() -> None:
    spec = JobSpec(name="a", model=ModelSpec(name="resv1"))
    assert spec.data.name == "cifar10"
    assert spec.data.split == (0.8, 0.1, 0.1)
    assert spec.data.limit is None
    assert (spec.train.epochs, spec.train.batch_size, spec.train.seed) == (200, 256, 42)
    assert spec.train.precision == "auto"
    assert spec.optimizer == Sgd(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.0)
    assert spec.schedule == Plateau(warmup_epochs=5, factor=0.5, patience=4, min_lr=1e-7)
    assert spec.priority == 0


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (DataSpec, {"split": (0.5, 0.5, 0.5)}, "split"),
        (DataSpec, {"split": (0.5, 0.5, 0.0)}, "split"),
        (TrainSpec, {"checkpoint_every": "soon"}, "checkpoint_every"),
        (Sgd, {"momentum": 0.0}, "nesterov"),
        (Steps, {"milestones": (150, 100)}, "milestones"),
        (Steps, {"milestones": (100, 100)}, "milestones"),
        (ResourcesSpec, {"memory": "much"}, "memory"),
        (LimitsSpec, {"time": "all night"}, "time"),
        (LimitsSpec, {"time": "0h"}, "time"),
        (LimitsSpec, {"hang": "0s"}, "hang"),
    ],
)
def test_what_no_single_type_can_say_is_refused_by_the_record(
    kind: type[msgspec.Struct], values: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        kind(**values)


def test_sizes_and_durations_are_numbers_inside() -> None:
    assert ResourcesSpec(memory="1.5 GiB").memory_bytes == 3 * 2**29
    assert ResourcesSpec().memory_bytes is None
    assert TrainSpec(checkpoint_every="90m").checkpoint_interval == Interval(seconds=5400)
    assert (LimitsSpec().time_s, LimitsSpec().hang_s) == (None, 600)
    assert LimitsSpec(time="6h").time_s == 21_600
    assert TrainSpec(checkpoint_every="5 epochs").checkpoint_interval == Interval(epochs=5)


def test_drawn_data_has_no_root() -> None:
    drawn = JobSpec(name="a", model=ModelSpec(name="resv1"), data=DataSpec(name="shapes", root="/data"))
    assert drawn.root is None
