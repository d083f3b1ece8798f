"""Whether a traced tensor peak is that of the real step, to the byte, for every registered network on the CPU.

A case is a network at its default width × batch size × optimizer × precision × augmentation. The real step is the
worker's: its network (channels-last), its data on the device, its batches, its steps up to those after the second
chunk was made, and an evaluation.
"""

import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import models.registry
from augment.catalog import policies_for
from jobs.spec import AdamW, Constant, DataSpec, JobSpec, ModelSpec, Optimizer, Sgd, TrainSpec

if TYPE_CHECKING:
    from augment.resident import ResidentSet
    from jobs.trace import DataShape

BATCHES = (4, 12)
OPTIMIZERS: tuple[Optimizer, ...] = (Sgd(), AdamW())
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
STEPS_PER_CHUNK = 2
STEPS = STEPS_PER_CHUNK + 2
TRAIN, VALIDATION, TEST = 60, 13, 13


def cases(seed: int) -> list[JobSpec]:
    """All there are, in an order drawn by the seed, so that the first of them are a sample of all."""
    found = []
    for network in models.registry.listed():
        data = "spirals" if network.takes_points else "shapes"
        for drawn in itertools.product(BATCHES, OPTIMIZERS, PRECISIONS, policies_for(data)):
            batch, optimizer, precision, augment = drawn
            found.append(
                JobSpec(
                    name=f"{network.name} {batch} {type(optimizer).__name__} {precision} {augment}",
                    model=ModelSpec(name=network.name),
                    data=DataSpec(name=data, augment=augment, chunk_size=STEPS_PER_CHUNK * batch),
                    train=TrainSpec(epochs=1, batch_size=batch, precision=precision),
                    optimizer=optimizer,
                    schedule=Constant(),
                )
            )
    return random.Random(seed).sample(found, len(found))


def compare(seed: int, minutes: float) -> dict[str, Any]:
    """Trace and run as many cases as the time allows, a process a core."""
    all_cases, rows, until = cases(seed), list[dict[str, Any]](), time.monotonic() + 60 * minutes
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for row in pool.imap_unordered(both_peaks, all_cases):
            rows.append(row)
            if time.monotonic() > until:
                break
        pool.terminate()
    differing = sorted(
        (row for row in rows if row["traced_bytes"] != row["real_bytes"]),
        key=lambda row: -abs(row["traced_bytes"] / row["real_bytes"] - 1),
    )
    return {"cases": len(all_cases), "compared": len(rows), "equal": len(rows) - len(differing), "differing": differing}


def both_peaks(spec: JobSpec) -> dict[str, Any]:
    """A case's row. Runs in a process of its own, which has one thread."""
    import torch

    from jobs.trace import DataShape, trace_job

    torch.set_num_threads(1)
    input_shape, classes = ((2,), 2) if spec.data.name == "spirals" else ((3, 32, 32), 10)
    shape = DataShape(train=TRAIN, validation=VALIDATION, test=TEST, input_shape=input_shape, classes=classes)
    traced = trace_job(spec, shape, torch.device("cpu"), spec.train.precision)
    return {"case": spec.name, "traced_bytes": traced.peak_bytes, "real_bytes": real_peak(spec, shape)}


def real_peak(spec: JobSpec, shape: "DataShape") -> int:
    """The most bytes of tensors alive at once in the steps of a training."""
    import torch

    from jobs.data import JobData, build_network
    from jobs.optimizer import build_optimizer
    from jobs.step import Totals, evaluation_step, training_step
    from jobs.storages import StorageTrace

    parts = train, validation, test = [_resident(count, shape) for count in (shape.train, shape.validation, shape.test)]
    data = JobData(spec, train, validation, test, shape.input_shape, shape.classes)
    network, precision = build_network(data), spec.train.precision
    with StorageTrace() as memory:
        memory.track([*network.parameters(), *network.buffers()])
        memory.track([(part.images, part.labels, part.mean, part.std) for part in parts])
        optimizer, totals = build_optimizer(spec.optimizer, network.parameters()), Totals(torch.device("cpu"))
        network.train()
        for step, (images, labels) in enumerate(islice(data.training_batches(0), STEPS)):
            training_step(network, optimizer, images, labels, precision, totals, step)
        network.eval()
        for images, labels in data.validation.evaluation_batches(spec.train.batch_size):
            evaluation_step(network, images, labels, precision, totals)
    return int(memory.peak_bytes)


def _resident(count: int, shape: "DataShape") -> "ResidentSet":
    import torch

    from augment.resident import ResidentSet, stored_as

    images = torch.rand(count, *shape.input_shape).mul_(255).to(stored_as(shape.input_shape))
    dimensions = shape.input_shape[0]
    return ResidentSet(
        images, torch.randint(0, shape.classes, (count,)), torch.full((dimensions,), 0.5), torch.ones(dimensions)
    )


def show(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['equal']} of {result['compared']} equal to the byte ({result['cases']} cases in all)"
    for row in result["differing"]:
        yield json.dumps(row)
