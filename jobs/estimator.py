"""The process that traces jobs: `python -P -m jobs.estimator`, a request a line in, a reply a line out.

It sees no GPU. What a traced network prints goes to standard error, never between the replies.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jobs.errors import in_words
from jobs.spec import JobSpec
from jobs.trace_messages import Reply, Request

if TYPE_CHECKING:
    from jobs.trace import DataShape, Trace

MiB = 1 << 20

# On the CPU: the code pages, thread stacks and kernel scratch that a training touches after its imports, and what
# malloc keeps beside the tensors. Fitted to 16 jobs of benchmarks/memory.py (seed 1), checked on those of another seed.
CPU_TRAINING_BYTES = 120 * MiB
CPU_SLACK_SHARE = 0.35
# cuBLAS's workspaces, which the caching allocator gives it (torch's notes on CUDA semantics, "cuBLAS workspaces").
CUDA_WORKSPACE_BYTES = 64 * MiB


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for request in _requests():
        replies.write(msgspec.json.encode(answer(request)) + b"\n")
        replies.flush()


def _requests() -> Iterator[Request]:
    for line in sys.stdin.buffer:
        yield msgspec.json.decode(line, type=Request)


def answer(request: Request) -> Reply:
    """The predicted bytes of a job by component, or why it cannot be told."""
    try:
        process_bytes = imports_bytes(request.spec)
        import torch

        from jobs.trace import trace_job

        device = torch.device(request.device)
        workspace_bytes = 0 if device.type == "cpu" else CUDA_WORKSPACE_BYTES
        traced = trace_job(request.spec, data_shape(request), device, request.precision, workspace_bytes)
    except Exception as error:
        return Reply(key=request.key, error=in_words(error) + _advice(error))
    if request.device == "cpu":
        components = cpu_components(traced, process_bytes)
    else:
        components = cuda_components(traced, request.context_bytes)
    return Reply(key=request.key, components=components, parameters=traced.parameters)


def _advice(error: Exception) -> str:
    """What to do about a network whose path depends on its data: a trace has none."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return '; it reads values of tensors, so it cannot be traced: declare [resources] memory, such as "6 GiB"'
    return ""


def data_shape(request: Request) -> "DataShape":
    """The job's data set as its facts tell, or, if they cannot or it is to be prepared, as it is on disk.

    Raises DataError.
    """
    from augment.catalog import DATASETS, all_part_sizes
    from augment.datasets import load
    from jobs.data import data_request
    from jobs.trace import DataShape

    data = request.spec.data
    facts = DATASETS[data.name]
    if request.prepare or facts.train_images is None or facts.input_shape is None or facts.classes is None:
        parts = load(data_request(request.spec), Path(request.cache_dir))
        train, validation, test = len(parts.train), len(parts.validation), len(parts.test)
        input_shape, classes, shared = parts.input_shape, len(parts.classes), parts.test is parts.validation
    else:
        labelled = min(facts.train_images, data.limit or facts.train_images)
        train, validation, test = all_part_sizes(labelled, facts.test_images or 0, data.split)
        input_shape, classes, shared = facts.input_shape, facts.classes, data.split == "official"
    return DataShape(train, validation, 0 if shared else test, input_shape, classes)


def tensor_components(traced: "Trace") -> dict[str, int]:
    """The traced peak by what holds it. Activations are what nothing lasting explains of the peak of a training step;
    augmentation is by how much making a chunk exceeds that.
    """
    lasting = {
        "parameters": traced.parameters_bytes,
        "gradients": traced.gradients_bytes,
        "optimizer": traced.optimizer_bytes,
        "data": traced.data_bytes,
    }
    activations = max(0, traced.training_peak_bytes - sum(lasting.values()))
    augmentation = traced.peak_bytes - max(traced.training_peak_bytes, sum(lasting.values()))
    return {**lasting, "activations": activations, "augmentation": max(0, augmentation)}


def cpu_components(traced: "Trace", process_bytes: int) -> dict[str, int]:
    """Resident memory of a worker on the CPU.

    While it loads, the memory-mapped cache and the copy taken from it are both resident.
    """
    tensors = tensor_components(traced)
    slack = int(CPU_SLACK_SHARE * (tensors["activations"] + tensors["augmentation"]))
    loading = max(0, 2 * traced.data_bytes - traced.peak_bytes - slack)
    return {
        "process": process_bytes + CPU_TRAINING_BYTES,
        **tensors,
        "loading": loading,
        "allocator slack": slack,
    }


def cuda_components(traced: "Trace", context_bytes: int) -> dict[str, int]:
    """Bytes of a worker's process on a GPU: its context, and what the caching allocator reserves at the peak.

    That is more than the tensors. If these were at their peak before there were workspaces, less is left for both.
    """
    tensors = tensor_components(traced)
    beyond_tensors = traced.reserved_peak_bytes - sum(tensors.values())
    workspaces = min(traced.workspace_bytes, beyond_tensors)
    return {
        "context": context_bytes,
        **tensors,
        "workspaces": workspaces,
        "allocator slack": beyond_tensors - workspaces,
    }


def imports_bytes(spec: JobSpec) -> int:
    """Resident memory of a process that has imported what this job's worker imports."""
    needed = ["jobs.train"]
    if spec.data.augment != "none":
        needed.append("augment.operations")
    if spec.model.name.startswith("torchvision:"):
        needed.append("torchvision")
    return _bare_bytes() + sum(_import_cost(module) for module in needed)


@cache
def _bare_bytes() -> int:
    return resident_bytes()


@cache
def _import_cost(module: str) -> int:
    """What importing a module adds to the resident memory; in this process that can be seen only once."""
    before = resident_bytes()
    importlib.import_module(module)
    return max(0, resident_bytes() - before)


def resident_bytes() -> int:
    """Resident memory of this process (/proc/self/statm, second field; proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
