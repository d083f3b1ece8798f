"""The process that traces jobs: `python -P -m jobs.estimator`, a request a line in, a reply a line out.

It sees no GPU. What a traced network prints goes to standard error, never between the replies, and what it reads from
standard input is nothing, never a request.
"""

import contextlib
import gc
import importlib
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from augment.errors import NoRoomForDataError
from jobs import largest_batch
from jobs.errors import in_words
from jobs.forks import Forks
from jobs.resident import (
    ALL_WORKER_MODULES,
    import_costs,
    private_writable_bytes,
    resident_bytes,
    worker_modules,
)
from jobs.spec import JobSpec
from jobs.trace_messages import Reply, Request, Tracing
from jobs.worker import die_with_parent

if TYPE_CHECKING:
    from jobs.trace import DataShape, Trace

MiB = 1 << 20

# On the CPU: the code pages, stacks and kernel scratch that a training touches after its imports. Fitted to 51 small
# jobs, checked on others (docs/results.md, "Memory").
CPU_TRAINING_BYTES = 44 * MiB
LOADING_BYTES = 7 * MiB  # of these, what data and network bring with them before any step

_NOTHING_COMPILED: Final = "fail_on_recompile"  # torch.compiler.set_stance


def main() -> None:
    """Answer requests until there are no more, or a network takes more memory than it may: it may still hold it."""
    die_with_parent()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import_all()
    forks = Forks(answer, replies)
    for line in requests:
        forks.respond(line)


def _import_all() -> None:
    """What traces need, so that no fork has to."""
    _imports()
    importlib.import_module("jobs.trace")
    _imported_data_bytes()
    gc.freeze()  # else a fork's collector goes through all that was imported, and so makes it the fork's own


def answer(request: Request, say: Callable[[Tracing], None] = lambda _: None) -> Reply:
    """The predicted bytes of a job by component, or why it cannot be told; `say` hears when its data are prepared.

    Raises MemoryError if the network took more memory than the request allows.
    """
    try:
        process_bytes = imports_bytes(request.spec)
        import torch

        from jobs.trace import trace_job

        shape = data_shape(request)
    except Exception as error:
        return Reply(key=request.key, error=in_words(error), no_room=isinstance(error, NoRoomForDataError))
    device = torch.device(request.device)
    workspace_bytes = 0 if device.type == "cpu" else request.constants.workspace_bytes

    def predicted(request: Request) -> tuple[dict[str, int], int]:
        say(Tracing(key=request.key, resident_bytes=resident_bytes()))
        with _limited(request), torch.compiler.set_stance(_NOTHING_COMPILED):
            traced = trace_job(request.spec, shape, device, request.precision, workspace_bytes)
        if request.device == "cpu":
            return cpu_components(traced, process_bytes), traced.parameters
        return cuda_components(traced, request.constants.context_bytes), traced.parameters

    try:
        components, parameters = predicted(request)
    except BaseException as error:  # a network may raise anything: KeyboardInterrupt, SystemExit
        return Reply(key=request.key, error=_blame(request, error), untraceable=_is_untraceable(error))
    size = sum(components.values())
    largest = largest_batch.search(request, size, shape.train, lambda other: sum(predicted(other)[0].values()))
    return Reply(key=request.key, components=components, parameters=parameters, largest_batch_size=largest)


def _blame(request: Request, error: BaseException) -> str:
    """What a network has raised, as a line that names it. Raises MemoryError if it ran out of memory."""
    from jobs.memory import is_out_of_memory

    if is_out_of_memory(error.__cause__ or error):  # an error of its builder is the cause of a ModelError
        raise MemoryError
    name = request.spec.model.name
    if _is_compiled(error):
        return f"{name}: it is compiled by torch.compile{_CANNOT_BE_TRACED}"
    words = in_words(error).removesuffix(": ")
    advice = f"; it reads values of tensors{_CANNOT_BE_TRACED}" if _is_untraceable(error) else ""
    return ("" if name in words else f"{name}: ") + words + advice


_CANNOT_BE_TRACED = (
    ", so it cannot be traced: a queued job is measured by a few steps alone on the device"
    ', unless it declares [resources] memory, such as "6 GiB"'
)


def _is_untraceable(error: BaseException) -> bool:
    """Whether a network failed only because it is compiled, fake tensors have no values, or an operator of its own no
    fake form.
    """
    from torch._subclasses import fake_tensor

    kinds = (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedOperatorException,
        fake_tensor.UnsupportedFakeTensorException,
    )
    no_numpy = "is not supported for tensor subclasses" in str(error)  # .numpy()
    return isinstance(error, kinds) or no_numpy or _is_compiled(error)


def _is_compiled(error: BaseException) -> bool:
    """Whether a network was about to be compiled while it was traced: fake tensors would crash the compiler, and what
    it compiles takes other memory than a trace tells.
    """
    return isinstance(error, RuntimeError) and f"torch.compile stance is '{_NOTHING_COMPILED}'" in str(error)


@contextlib.contextmanager
def _limited(request: Request) -> Iterator[None]:
    """Hold this process, and each that it forks, to the request's limits. Beyond that of the CPU, SIGXCPU ends it.

    That of memory is of what is private and writable, the allocations, and not of mapped files.
    """
    with (
        _limit(resource.RLIMIT_DATA, _imported_data_bytes(), request.memory_limit_bytes),
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()), request.cpu_limit_s),
    ):
        yield


@contextlib.contextmanager
def _limit(kind: int, taken: int, more: int | None) -> Iterator[None]:
    """Allow `more` of a resource than has been `taken`; None is no limit (getrlimit(2))."""
    before = _, hard = resource.getrlimit(kind)
    if more is not None:
        soft = taken + more
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@cache
def _imported_data_bytes() -> int:
    """Private writable memory of this process before it traces its first network."""
    importlib.import_module("torch._dynamo")  # as the first fake tensor does: no network's limit is to pay for it
    return private_writable_bytes()


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

    Loading is by how much reading the weights of a checkpoint exceeds training, as it does where few have gradients.
    """
    tensors = tensor_components(traced)
    loading = max(0, traced.loading_peak_bytes - traced.peak_bytes)
    return {
        "process": process_bytes + CPU_TRAINING_BYTES,
        **tensors,
        "loading": loading,
        "allocator slack": traced.holes_bytes,
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
    bare_bytes, costs = _imports()
    return bare_bytes + sum(costs[module] for module in worker_modules(spec))


@cache
def _imports() -> tuple[int, dict[str, int]]:
    """Resident memory of this process before it imports what workers do, and what each of that adds.

    It can be seen once, and only before the first trace: tracing imports most of what torchvision needs, which makes
    torchvision itself cost little here; seen before, it costs a second that tracing then saves.
    """
    return resident_bytes(), import_costs(ALL_WORKER_MODULES)


if __name__ == "__main__":
    main()
