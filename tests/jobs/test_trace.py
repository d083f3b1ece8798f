"""The memory of a job before it runs: what is traced without data equals what the same job really holds."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BATCH, CHUNK, job, user_job
from torch import nn

import models.registry
from augment.policies import Policy, policy
from augment.resident import ResidentSet
from jobs.allocator import replay
from jobs.estimator import cpu_components, cuda_components
from jobs.optimizer import build_optimizer
from jobs.spec import Adam, AdamW, JobSpec, Optimizer, Sgd
from jobs.step import Totals, chosen_chunk_size, evaluation_step, training_step
from jobs.storages import StorageTrace
from jobs.trace import DataShape, Trace, size_of, trace_job
from models.errors import ModelError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
MiB = 1 << 20
SHAPE = DataShape(train=160, validation=20, test=20, input_shape=(3, 32, 32), classes=10)
IMAGE = 3 * 32 * 32
OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "adam": Adam(), "adamw": AdamW()}
NORMED = """
from torch import nn


def normed(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.GroupNorm(1, 16), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""
DRAWN = """
from torch import nn
from torch.nn.init import trunc_normal_


def drawn(classes, channels):
    wide = nn.Linear(channels * 32 * 32, 1 << 29)
    trunc_normal_(wide.weight, std=0.02)
    return nn.Sequential(nn.Flatten(), wide, nn.Linear(1 << 29, classes))


def failing(classes, channels):
    raise RuntimeError("not today")
"""
FROZEN = """
from torch import nn


def frozen(classes, channels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, 1024), nn.ReLU(), nn.Linear(1024, classes))
    network[1].requires_grad_(False)
    return network
"""
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


def traced(
    spec: JobSpec,
    shape: DataShape = SHAPE,
    workspace_bytes: int = 0,
    device: torch.device = CPU,
    precision: str = "fp32",
) -> Trace:
    return trace_job(spec, shape, device, precision, workspace_bytes)


def resident(images: int) -> ResidentSet:
    return ResidentSet(
        torch.randint(0, 256, (images, *SHAPE.input_shape), dtype=torch.uint8),
        torch.randint(0, SHAPE.classes, (images,)),
        torch.full((3,), 0.5),
        torch.ones(3),
    )


def real_memory(spec: JobSpec, precision: str = "fp32", epochs: int = 1) -> StorageTrace:
    """What is born and dies of real tensors in training, which is not interrupted between epochs, and evaluation."""
    network = models.registry.build(
        spec.model.name, spec.model.options, input_shape=SHAPE.input_shape, classes=SHAPE.classes
    ).to(memory_format=torch.channels_last)
    policy(spec.data.augment, SHAPE.input_shape[-1])  # with the constants of its library
    with StorageTrace() as memory:
        memory.track([*network.parameters(), *network.buffers()])
        train_set, validation_set, _test_set = map(resident, (SHAPE.train, SHAPE.validation, SHAPE.test))
        optimizer, totals = build_optimizer(spec.optimizer, network.parameters()), Totals(CPU)
        for epoch in range(epochs):
            for images, labels in train_set.training_batches(
                seed=0,
                epoch=epoch,
                batch_size=spec.train.batch_size,
                augment=policy(spec.data.augment, SHAPE.input_shape[-1]),
                chunk_size=chosen_chunk_size(spec.data.chunk_size, CPU),
            ):
                training_step(network, optimizer, images, labels, precision, totals, 0)
        network.eval()
        for images, labels in validation_set.evaluation_batches(spec.train.batch_size):
            evaluation_step(network, images, labels, precision, totals)
    return memory


@pytest.mark.parametrize(("network", "optimizer"), PAIRS)
def test_the_traced_peak_is_the_real_one_to_the_byte(network: str, optimizer: str) -> None:
    spec = network_job(network, optimizer=OPTIMIZERS[optimizer])
    assert traced(spec).peak_bytes == real_memory(spec).peak_bytes


@pytest.mark.parametrize(("network", "optimizer"), [("baseline-130k", "adamw"), ("bn4", "sgd")])
def test_so_it_is_in_bf16(network: str, optimizer: str) -> None:
    spec = network_job(network, optimizer=OPTIMIZERS[optimizer])
    assert traced(spec, precision="bf16").peak_bytes == real_memory(spec, "bf16").peak_bytes


def test_so_it_is_in_bf16_with_other_norms(tmp_path: Path) -> None:
    file = tmp_path / "normed.py"
    file.write_text(NORMED)
    spec = user_job(file, "normed")
    assert traced(spec, precision="bf16").peak_bytes == real_memory(spec, "bf16").peak_bytes


@pytest.mark.parametrize(("network", "optimizer"), [("resv1", "sgd"), ("bnv2", "adamw")])
def test_so_is_what_an_allocator_would_reserve(network: str, optimizer: str) -> None:
    spec = network_job(network, optimizer=OPTIMIZERS[optimizer])
    assert traced(spec).reserved_peak_bytes == replay(real_memory(spec).events).peak_reserved_bytes


@pytest.mark.parametrize("chunk_size", [BATCH, CHUNK, 1000], ids=["a batch", "two batches", "the whole epoch"])
def test_so_it_is_whatever_the_chunks(chunk_size: int) -> None:
    spec = network_job("baseline-130k", chunk_size=chunk_size)
    assert traced(spec).peak_bytes == real_memory(spec).peak_bytes


@pytest.mark.parametrize("chunk_size", [80, 1000], ids=["five batches", "the whole epoch"])
def test_so_it_is_where_making_a_chunk_takes_the_most(chunk_size: int) -> None:
    """The last batch is held then, not those before it; and the chunk may be the next epoch's."""
    spec = network_job("baseline-130k", augment="hard3", batch_size=16, chunk_size=chunk_size, optimizer=Adam())
    one = traced(spec)
    assert one.augmentation_peak_bytes > one.training_peak_bytes
    assert one.peak_bytes == real_memory(spec, epochs=2).peak_bytes


def test_so_it_is_for_a_user_s_network(user_file: Path) -> None:
    spec = user_job(user_file, "small", optimizer=Adam())
    assert traced(spec).peak_bytes == real_memory(spec).peak_bytes


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


def test_workspaces_are_reserved_beside_the_tensors() -> None:
    spec = network_job("resv1")
    without, with_them = traced(spec), traced(spec, workspace_bytes=64 * MiB)
    assert with_them.reserved_peak_bytes == without.reserved_peak_bytes + 64 * MiB
    assert with_them.peak_bytes == without.peak_bytes


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


def test_nor_does_drawing_weights_until_they_lie_within_bounds(tmp_path: Path) -> None:
    (file := tmp_path / "drawn.py").write_text(DRAWN)
    drawing = nn.init._no_grad_trunc_normal_  # type: ignore[attr-defined]
    assert traced(user_job(file, "drawn")).parameters > 10**12
    with pytest.raises(ModelError, match="not today"):
        traced(user_job(file, "failing"))
    assert nn.init._no_grad_trunc_normal_ is drawing  # type: ignore[attr-defined]


def test_a_trace_does_not_depend_on_how_often_it_is_made() -> None:
    spec = network_job("resv1")
    assert traced(spec) == traced(spec)


def test_constants_that_a_policy_s_library_makes_when_imported_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    constants: list[torch.Tensor] = []

    def importing(name: str, image_size: int) -> Policy:
        if not constants:
            constants.append(torch.zeros(MiB))
        return policy(name, image_size)

    spec = network_job("resv1")
    expected = traced(spec)
    monkeypatch.setattr("jobs.trace.policy", importing)
    assert traced(spec) == expected
    assert constants


def test_a_network_that_cannot_be_built_is_a_model_error(user_file: Path) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        traced(user_job(user_file, "unbuildable"))


class TestCuda:
    """A trace for a GPU, without one: tests/jobs/test_cuda_semantics.py tells what it takes CUDA to do."""

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_convolutions_and_batch_norm_take_what_they_take_on_the_cpu(self, precision: str) -> None:
        spec = network_job("resv1")
        on_cpu, on_gpu = (traced(spec, device=device, precision=precision) for device in (CPU, CUDA))
        assert on_gpu == on_cpu

    def test_layer_norm_takes_more_in_bf16_where_its_output_is_fp32(self, tmp_path: Path) -> None:
        file = tmp_path / "normed.py"
        file.write_text(NORMED)
        on_cpu, on_gpu = (trace_job(user_job(file, "normed"), SHAPE, device, "bf16") for device in (CPU, CUDA))
        outputs = BATCH * 16 * 32 * 32
        assert on_gpu.training_peak_bytes >= on_cpu.training_peak_bytes + 2 * outputs

    def test_a_trace_leaves_nothing_of_cuda_behind(self) -> None:
        spec = network_job("resv1")
        before = trace_job(spec, SHAPE, CPU, "bf16")
        trace_job(spec, SHAPE, CUDA, "bf16")
        assert trace_job(spec, SHAPE, CPU, "bf16") == before


def test_components_on_the_cpu_sum_to_more_than_the_tensors_and_none_is_negative() -> None:
    one = traced(network_job("resv1", augment="easy"))
    components = cpu_components(one, 10**8)
    assert min(components.values()) >= 0
    assert sum(components.values()) >= one.peak_bytes + 10**8


def test_weights_without_gradients_are_there_twice_when_the_best_are_read(tmp_path: Path) -> None:
    file = tmp_path / "frozen.py"
    file.write_text(FROZEN)
    one = traced(user_job(file, "frozen", batch_size=16))
    weights = 4 * 1024 * IMAGE
    components = cpu_components(one, 0)
    assert one.gradients_bytes < weights < one.parameters_bytes
    assert 0.9 * weights < components["loading"] < weights
    assert cpu_components(traced(network_job("resv1")), 0)["loading"] == 0


def test_weights_that_fit_into_the_heap_leave_no_holes() -> None:
    """A dozen layers of 1 MiB each, with their gradients and two averages."""
    one = traced(job("mlp-plain", {"width": 512, "blocks": 6}, batch_size=16, optimizer=Adam()))
    assert one.gradients_bytes > 12 * MiB
    assert one.holes_bytes < 2 * MiB


def test_components_on_a_gpu_sum_to_the_context_and_what_is_reserved() -> None:
    one = traced(network_job("resv1", augment="easy"), workspace_bytes=64 * MiB)
    components = cuda_components(one, 10**8)
    assert components["workspaces"] == 64 * MiB
    assert components["allocator slack"] == one.reserved_peak_bytes - one.peak_bytes - 64 * MiB > 0
    assert sum(components.values()) == 10**8 + one.reserved_peak_bytes


def test_workspaces_that_came_after_the_peak_do_not_count_in_full() -> None:
    early = traced(network_job("resv1"), workspace_bytes=64 * MiB)
    early = dataclasses.replace(early, reserved_peak_bytes=early.peak_bytes + MiB)
    components = cuda_components(early, 0)
    assert (components["workspaces"], components["allocator slack"]) == (MiB, 0)
