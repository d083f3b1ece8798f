"""The memory of a job before it runs: what is traced without data equals what the same job really holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BATCH, CHUNK, job, user_job

import models.registry
from augment.policies import policy
from augment.resident import ResidentSet
from jobs.estimator import cpu_components, cuda_components
from jobs.optimizer import build_optimizer
from jobs.spec import Adam, AdamW, JobSpec, Optimizer, Sgd
from jobs.step import Totals, chosen_chunk_size, evaluation_step, training_step
from jobs.trace import DataShape, StorageTrace, Trace, size_of, trace_job
from models.errors import ModelError

CPU = torch.device("cpu")
SHAPE = DataShape(train=160, validation=20, test=20, input_shape=(3, 32, 32), classes=10)
IMAGE = 3 * 32 * 32
OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "adam": Adam(), "adamw": AdamW()}
PAIRS = [
    ("baseline-130k", "sgd"),
    ("baseline-130k", "adam"),
    ("baseline-130k", "adamw"),
    ("resv1", "sgd"),
    ("bn4", "adam"),
    ("bnv2", "adamw"),
]


def network_job(network: str, **changes: Any) -> JobSpec:
    options: dict[str, Any] = {"width": 4} if network.startswith("baseline") else {"width": 4, "blocks": [1, 1, 1, 1]}
    return job(network, options, **changes)


def traced(spec: JobSpec, shape: DataShape = SHAPE) -> Trace:
    return trace_job(spec, shape, CPU, "fp32")


def resident(images: int) -> ResidentSet:
    return ResidentSet(
        torch.randint(0, 256, (images, *SHAPE.input_shape), dtype=torch.uint8),
        torch.randint(0, SHAPE.classes, (images,)),
        torch.full((3,), 0.5),
        torch.ones(3),
    )


def real_peak_bytes(spec: JobSpec) -> int:
    """The most bytes of real tensors alive at once in an epoch of training and evaluation."""
    network = models.registry.build(
        spec.model.name, spec.model.options, input_shape=SHAPE.input_shape, classes=SHAPE.classes
    )
    augment = policy(spec.data.augment, SHAPE.input_shape[-1])
    with StorageTrace() as memory:
        memory.track([*network.parameters(), *network.buffers()])
        train_set, validation_set, _test_set = map(resident, (SHAPE.train, SHAPE.validation, SHAPE.test))
        optimizer, totals = build_optimizer(spec.optimizer, network.parameters()), Totals(CPU)
        memory.peak_since()
        batches = train_set.training_batches(
            seed=0,
            epoch=0,
            batch_size=spec.train.batch_size,
            augment=augment,
            chunk_size=chosen_chunk_size(spec.data.chunk_size, CPU),
        )
        for step, (images, labels) in enumerate(batches):
            training_step(network, optimizer, images, labels, "fp32", totals, step)
        network.eval()
        for images, labels in validation_set.evaluation_batches(spec.train.batch_size):
            evaluation_step(network, images, labels, "fp32", totals)
        peak: int = memory.peak_since()
        return peak


@pytest.mark.parametrize(("network", "optimizer"), PAIRS)
def test_the_traced_peak_is_the_real_one_to_the_byte(network: str, optimizer: str) -> None:
    spec = network_job(network, optimizer=OPTIMIZERS[optimizer])
    assert traced(spec).peak_bytes == real_peak_bytes(spec)


@pytest.mark.parametrize("chunk_size", [BATCH, CHUNK, 1000], ids=["a batch", "two batches", "the whole epoch"])
def test_so_it_is_whatever_the_chunks(chunk_size: int) -> None:
    spec = network_job("baseline-130k", chunk_size=chunk_size)
    assert traced(spec).peak_bytes == real_peak_bytes(spec)


def test_so_it_is_for_a_user_s_network(user_file: Path) -> None:
    spec = user_job(user_file, "small", optimizer=Adam())
    assert traced(spec).peak_bytes == real_peak_bytes(spec)


def test_what_lasts_is_told_apart() -> None:
    spec = network_job("resv1", optimizer=Adam())
    network = models.registry.build("resv1", spec.model.options, input_shape=SHAPE.input_shape, classes=10)
    weights = size_of(network.parameters())
    one = traced(spec)
    assert one.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert one.parameters_bytes == weights + size_of(network.buffers())
    assert one.gradients_bytes == weights
    assert one.optimizer_bytes == 2 * weights + 4 * len(list(network.parameters()))  # two averages, and a step each
    assert one.data_bytes == 200 * (IMAGE + 8) + 3 * (4 + 4) * 3  # uint8 images, int64 labels, mean and deviation


def test_sgd_without_momentum_keeps_nothing() -> None:
    assert traced(network_job("resv1", optimizer=Sgd(momentum=0.0, nesterov=False))).optimizer_bytes == 0


def test_activations_grow_with_the_batch() -> None:
    peaks = [
        traced(network_job("baseline-130k", batch_size=batch, chunk_size=CHUNK)).peak_bytes for batch in (24, 48, 96)
    ]
    assert peaks == sorted(set(peaks))


@pytest.mark.parametrize("augment", ["crop-flip", "easy", "hard2", "hard3"])
def test_every_policy_can_be_traced_and_takes_more_than_none(augment: str) -> None:
    spec = network_job("baseline-130k", augment=augment)
    chunk = CHUNK * IMAGE * 4
    assert traced(spec).augmentation_peak_bytes >= traced(network_job("baseline-130k")).augmentation_peak_bytes + chunk


def test_a_trace_takes_no_memory_for_what_it_counts() -> None:
    shape = DataShape(train=10**8, validation=10, test=10, input_shape=(3, 32, 32), classes=10)
    one = traced(job("baseline-430k", {"width": 256}, batch_size=10**5, chunk_size=10**5), shape)
    assert one.data_bytes > 10**8 * IMAGE
    assert one.training_peak_bytes > 10**12


def test_a_trace_does_not_depend_on_how_often_it_is_made() -> None:
    spec = network_job("resv1")
    assert traced(spec) == traced(spec)


def test_a_network_that_cannot_be_built_is_a_model_error(user_file: Path) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        traced(user_job(user_file, "unbuildable"))


class TestStorages:
    def test_views_are_counted_once(self) -> None:
        with StorageTrace() as memory:
            one = torch.zeros(10)
            views = [one[2:], one.view(5, 2), one.t()]
        assert memory.live_bytes == 40
        assert len(views) == 3

    def test_what_died_is_no_longer_live_but_was_in_the_peak(self) -> None:
        with StorageTrace() as memory:
            one = torch.zeros(10)
            del one
            two = torch.zeros(5)
        assert (memory.live_bytes, memory.peak_bytes) == (20, 40)
        del two
        assert memory.live_bytes == 0

    def test_a_peak_is_told_since_the_last_question(self) -> None:
        with StorageTrace() as memory:
            one = torch.zeros(10)
            del one
            kept = torch.zeros(5)
            assert memory.peak_since() == 40
            assert memory.peak_since() == kept.nbytes


def test_components_sum_to_the_prediction_and_none_is_negative() -> None:
    one = traced(network_job("resv1", augment="easy"))
    for components in (cpu_components(one, 10**8), cuda_components(one, 10**8)):
        assert min(components.values()) >= 0
        assert sum(components.values()) >= one.peak_bytes + 10**8
