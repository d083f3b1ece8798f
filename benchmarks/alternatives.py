"""What other ways of predicting memory say of the same jobs: bytes of tensors, to which the caller adds the process.

    uv run python benchmarks/alternatives.py jobs/bn4.toml

Prints {name: {alternative: bytes, or null where it fails}}. None of them knows of data that live on the device, of
augmentation, of an allocator. All run on the CPU without data or a GPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from augment.catalog import DATASETS, check_image_folder
from jobs.job_file import read_job_files
from jobs.spec import Adam, AdamW, JobSpec, Sgd

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 2  # the second is the peak: by then the optimizer has its state


Told = dict[str, dict[str, int | None]]  # bytes by job and alternative; None where it fails


def ask(files: Sequence[Path]) -> Told:
    """The alternatives' bytes of the jobs of these files."""
    with asking(files) as answer:
        return answer(None)


@contextmanager
def asking(files: Sequence[Path]) -> Iterator[Callable[[float | None], Told]]:
    """The same beside other work, by a process that sees no GPU. Its answer is waited for, but so many seconds at
    most: then it is empty.
    """
    command = [sys.executable, __file__, *map(str, files)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def answer(timeout_s: float | None) -> Told:
        try:
            told: Told = json.loads(process.communicate(timeout=timeout_s)[0] or "{}")
        except subprocess.TimeoutExpired:
            return {}
        return told

    try:
        yield answer
    finally:
        process.kill()
        process.wait()


def closed_form(spec: JobSpec) -> int:
    """Parameters, gradients, the optimizer's state, and the outputs of all layers of one forward pass."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from jobs.step import mixed_precision
    from jobs.trace import make_fake, size_of

    network, (shape, _) = _network(spec), _samples(spec)
    make_fake(network, mode := FakeTensorMode())
    outputs_bytes = 0

    def add(_module: object, _inputs: object, output: object) -> None:
        nonlocal outputs_bytes
        outputs_bytes += size_of(output if isinstance(output, tuple) else (output,))

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    with mode, mixed_precision(_precision(spec), torch.device("cpu")):
        network(torch.empty(spec.train.batch_size, *shape))
    return (2 + _states(spec)) * size_of(network.parameters()) + outputs_bytes


def _states(spec: JobSpec) -> int:
    """Tensors like a parameter that the optimizer keeps for each."""
    match spec.optimizer:
        case Sgd(momentum=momentum):
            return 1 if momentum else 0
        case Adam() | AdamW():
            return 2


def plain_trace(spec: JobSpec) -> int:
    """The peak of live fake tensors over the training step alone."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from jobs.optimizer import build_optimizer
    from jobs.step import Totals, training_step
    from jobs.storages import StorageTrace
    from jobs.trace import make_fake

    network = _network(spec)
    make_fake(network, mode := FakeTensorMode())
    with mode, StorageTrace() as memory:
        memory.track([*network.parameters(), *network.buffers()])
        optimizer, totals = build_optimizer(spec.optimizer, network.parameters()), Totals(torch.device("cpu"))
        for step in range(STEPS):
            images, labels = _batch(spec)
            training_step(network, optimizer, images, labels, _precision(spec), totals, step)
        return int(memory.peak_bytes)


def mem_tracker(spec: JobSpec) -> int:
    """The peak that torch.distributed._tools.mem_tracker.MemTracker tells, used as its documentation shows."""
    import torch
    import torch.nn.functional as F
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from jobs.optimizer import build_optimizer
    from jobs.step import mixed_precision
    from jobs.trace import make_fake

    network, cpu = _network(spec), torch.device("cpu")
    make_fake(network, mode := FakeTensorMode())
    tracker = MemTracker()
    with mode:
        optimizer = build_optimizer(spec.optimizer, network.parameters())
        tracker.track_external(network, optimizer)
        with tracker:
            for _ in range(STEPS):
                images, labels = _batch(spec)
                with mixed_precision(_precision(spec), cpu):
                    loss = F.cross_entropy(network(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
    return int(tracker.get_tracker_snapshot("peak")[cpu]["Total"])


ALTERNATIVES: dict[str, Callable[[JobSpec], int]] = {
    "closed form": closed_form,
    "plain trace": plain_trace,
    "MemTracker": mem_tracker,
}


def _network(spec: JobSpec) -> "nn.Module":
    import models.registry

    shape, classes = _samples(spec)
    network: nn.Module = models.registry.build(spec.model.name, spec.model.options, input_shape=shape, classes=classes)
    return network.train()


def _samples(spec: JobSpec) -> tuple[tuple[int, ...], int]:
    """The shape of one sample, and the classes."""
    facts = DATASETS[spec.data.name]
    if facts.input_shape is not None and facts.classes is not None:
        return facts.input_shape, facts.classes
    assert spec.data.image_size is not None
    assert spec.root is not None
    return (3, spec.data.image_size, spec.data.image_size), len(check_image_folder(spec.root).classes)


def _batch(spec: JobSpec) -> tuple["Tensor", "Tensor"]:
    import torch

    shape, _ = _samples(spec)
    size = spec.train.batch_size
    return torch.empty(size, *shape), torch.empty(size, dtype=torch.int64)


def _precision(spec: JobSpec) -> str:
    return "bf16" if spec.train.precision == "bf16" else "fp32"


def _told(alternative: str, spec: JobSpec) -> int | None:
    try:
        return ALTERNATIVES[alternative](spec)
    except Exception as error:  # whatever it cannot do is a result
        print(f"{alternative} of {spec.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def main() -> None:
    specs = [spec for _, spec in read_job_files([Path(file) for file in sys.argv[1:]])]
    print(json.dumps({spec.name: {name: _told(name, spec) for name in ALTERNATIVES} for spec in specs}))


if __name__ == "__main__":
    main()
