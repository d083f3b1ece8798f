"""The memory of a job before it runs: the trainer's own step on fake tensors, every storage counted while it lives.

A fake tensor has a size and no data, so a trace costs neither the memory nor the time of the real step
(`jobs.tracing_mode`: torch's FakeTensorMode, mended and made faster). It runs on fake CPU tensors whatever the device:
fake CUDA tensors need a GPU to go backward. For a GPU `jobs.cuda_semantics` has them cast, and keep, what CUDA's would.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import models.registry
from augment.policies import policy
from augment.resident import Batches, ResidentSet, stored_as
from jobs.allocator import replay
from jobs.checkpoint import stored_bytes
from jobs.cuda_semantics import as_on_cuda
from jobs.diagnostics.gradient_flow import GradientFlow
from jobs.diagnostics.plane import Plane
from jobs.diagnostics.survey import evaluation_batch_size
from jobs.malloc import holes_bytes
from jobs.optimizer import build_optimizer, forget_training
from jobs.spec import JobSpec
from jobs.step import STEPS_PER_CHUNK, Totals, chosen_chunk_size, evaluation_step, training_step
from jobs.storages import Storages
from jobs.tracing_mode import Results, TracingMode

_RESULTS: Results = {}  # of operators, in all traces of this process


@dataclass(frozen=True)
class DataShape:
    """A data set as far as memory is concerned: images in each part, (C, H, W) or (2,) of points, classes.

    A test part that is the validation part, as the official split's, takes no memory of its own: it counts as 0.
    """

    train: int
    validation: int
    test: int
    input_shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Trace:
    """Bytes of tensors: the peaks, and what of them lives as long as the training."""

    training_peak_bytes: int  # while training or evaluating on batches
    augmentation_peak_bytes: int  # while a chunk was made
    loading_peak_bytes: int  # while weights are read from a checkpoint, which is into memory of the CPU
    data_bytes: int
    parameters_bytes: int  # with buffers
    gradients_bytes: int
    optimizer_bytes: int
    workspace_bytes: int  # no tensors, but allocated with them
    reserved_peak_bytes: int  # of the caching allocator (jobs.allocator), were it asked for all of these
    holes_bytes: int  # of the heap on the CPU (jobs.malloc), likewise
    parameters: int

    @property
    def peak_bytes(self) -> int:
        return max(self.training_peak_bytes, self.augmentation_peak_bytes)


def trace_job(spec: JobSpec, shape: DataShape, device: torch.device, precision: str, workspace_bytes: int = 0) -> Trace:
    """Trace the first steps of a training, into its second chunk, and a batch of evaluation, as they run on `device`.

    `workspace_bytes` is what a library allocates at the first step, and keeps.
    Raises ModelError for a network that cannot be built, and whatever its forward raises.
    """
    policy(spec.data.augment, shape.input_shape[-1])  # imported now, lest the constants of its library are traced
    fake, memory = TracingMode(_RESULTS), Storages()
    network = _fake_network(spec, shape, fake)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with fake.counting(memory), _semantics(device):
        memory.track([*network.parameters(), *network.buffers()])
        parameters_bytes = memory.live_bytes
        train, validation, test = (_resident(images, shape) for images in (shape.train, shape.validation, shape.test))
        data_bytes = memory.live_bytes - parameters_bytes
        optimizer = build_optimizer(spec.optimizer, network.parameters())
        totals = Totals(torch.device("cpu"))
        flow = GradientFlow(network) if spec.diagnostics.gradient_flow else None
        network.train()

        def step(images: Tensor, labels: Tensor, number: int, on_gradients: Callable[[], None]) -> None:
            training_step(network, optimizer, images, labels, precision, totals, number, on_gradients)

        steps = _Steps(memory, flow, workspace_bytes)
        steps.trace(step, _first_batches_of_chunks(spec, train, device))
        gradients_bytes = size_of(parameter.grad for parameter in network.parameters())
        optimizer_bytes = size_of(tree_leaves(list(optimizer.state.values())))
        network.eval()
        images, labels = next(validation.evaluation_batches(spec.train.batch_size))
        evaluation_step(network, images, labels, precision, totals)
        training_peak = max(steps.training_peak_bytes, memory.peak_since())
        optimizer.zero_grad(set_to_none=True)
        loading_peak = memory.live_bytes + stored_bytes(network)
        if spec.diagnostics.landscape:
            forget_training(optimizer)
            batches = (test or validation).evaluation_batches(evaluation_batch_size(spec.train.batch_size, device))
            trace_landscape(network, next(batches), precision)
        return Trace(
            training_peak_bytes=max(training_peak, memory.peak_since()),
            augmentation_peak_bytes=steps.augmentation_peak_bytes,
            loading_peak_bytes=loading_peak,
            data_bytes=data_bytes,
            parameters_bytes=parameters_bytes,
            gradients_bytes=gradients_bytes,
            optimizer_bytes=optimizer_bytes,
            workspace_bytes=workspace_bytes,
            reserved_peak_bytes=replay(memory.events).peak_reserved_bytes,
            holes_bytes=holes_bytes(memory.events, steps.updates),
            parameters=parameters,
        )


class _Steps:
    """The first training steps: their peaks, and where among the events each update of the weights began and ended."""

    def __init__(self, memory: Storages, flow: GradientFlow | None, workspace_bytes: int) -> None:
        self.training_peak_bytes = self.augmentation_peak_bytes = memory.peak_since()
        self.updates: list[int] = []
        self._memory, self._flow, self._workspace_bytes = memory, flow, workspace_bytes

    def trace(self, train: Callable[[Tensor, Tensor, int, Callable[[], None]], None], batches: Batches) -> None:
        """`train` makes a step of a batch and its number, and tells when there are gradients."""
        numbers = count()  # `enumerate` would hold a batch until it has the next
        for images, labels in batches:
            number = next(numbers)
            if number % STEPS_PER_CHUNK == 0:  # a chunk was made for this batch
                self.augmentation_peak_bytes = max(self.augmentation_peak_bytes, self._memory.peak_since())
            if number == 0 and self._workspace_bytes > 0:
                self._memory.events.append(("workspaces", self._workspace_bytes))
            train(images, labels, number, self._on_gradients)
            self.updates.append(len(self._memory.events))
            self.training_peak_bytes = max(self.training_peak_bytes, self._memory.peak_since())
            del images, labels  # while the next chunk is made, training holds the last batch before it, not this one

    def _on_gradients(self) -> None:
        self.updates.append(len(self._memory.events))
        if self._flow is not None:
            self._flow.add()


def _fake_network(spec: JobSpec, shape: DataShape, fake: FakeTensorMode) -> nn.Module:
    """As `jobs.data.build_network` makes the real one. Made of fake tensors it costs no memory and draws no weights."""
    try:
        with fake, _no_redrawing():
            network = _network(spec, shape)
    except Exception:  # it reads a tensor while it is built, or cannot be built at all
        network = _network(spec, shape)
        make_fake(network, fake)
    with fake:
        _replace_tensors(network, _channels_last)
    return network


@contextmanager
def _no_redrawing() -> Iterator[None]:
    """Inside, no weights are drawn from a truncated normal distribution: until all of them lie within its bounds, which
    fake ones never tell.
    """
    name = "_no_grad_trunc_normal_"  # what nn.init's function calls, however a network has imported it
    drawing = getattr(nn.init, name)
    setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
    try:
        yield
    finally:
        setattr(nn.init, name, drawing)


def _network(spec: JobSpec, shape: DataShape) -> nn.Module:
    network: nn.Module = models.registry.build(
        spec.model.name, spec.model.options, input_shape=shape.input_shape, classes=shape.classes
    )
    return network


def _channels_last(tensor: Tensor) -> Tensor:
    """As `Module.to(memory_format=torch.channels_last)` has it, which fake tensors do not take."""
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() in (4, 5) else tensor


def _semantics(device: torch.device) -> AbstractContextManager[None]:
    return as_on_cuda() if device.type == "cuda" else nullcontext()


def trace_landscape(network: nn.Module, batch: tuple[Tensor, Tensor], precision: str) -> None:
    """One point of a landscape, as `jobs.diagnostics.survey` evaluates it."""

    def loss() -> float:
        evaluation_step(network, *batch, precision, Totals(torch.device("cpu")))
        return 0.0  # a fake tensor has none

    Plane(network, seed=0).losses([(0.0, 0.0)], loss)


def _first_batches_of_chunks(spec: JobSpec, train: ResidentSet, device: torch.device) -> Batches:
    """The first two batches and the first of the second chunk, be it the next epoch's; making that is when the most is
    alive: all that lasts, and the last batch before it.
    """
    chunk_size = chosen_chunk_size(spec.data.chunk_size, device)
    steps_per_chunk = max(1, chunk_size // spec.train.batch_size)
    epochs = (
        train.training_batches(
            seed=0,
            epoch=epoch,
            batch_size=spec.train.batch_size,
            augment=policy(spec.data.augment, train.images.shape[-1]),
            chunk_size=chunk_size,
        )
        for epoch in range(STEPS_PER_CHUNK + 1)  # enough, were each a single batch
    )
    numbered = ((step, batch) for batches in epochs for step, batch in enumerate(batches))
    telling = (batch for step, batch in numbered if step % steps_per_chunk < STEPS_PER_CHUNK)
    yield from islice(telling, STEPS_PER_CHUNK + 1)


def make_fake(network: nn.Module, mode: FakeTensorMode) -> None:
    """Replace a network's parameters and buffers by fake ones."""
    _replace_tensors(network, mode.from_tensor)


def _replace_tensors(network: nn.Module, replacement: Callable[[Tensor], Tensor]) -> None:
    """Replace a network's parameters and buffers, shared ones by shared ones."""
    known: dict[int, Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in known:
                    new = replacement(parameter.detach())
                    known[id(parameter)] = nn.Parameter(new, requires_grad=parameter.requires_grad)
                module._parameters[name] = known[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                known.setdefault(id(buffer), replacement(buffer.detach()))
                module._buffers[name] = known[id(buffer)]


def size_of(tensors: Iterable[object]) -> int:
    """Bytes of the tensors among these."""
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, Tensor))


def _resident(images: int, shape: DataShape) -> ResidentSet:
    channels = shape.input_shape[0]
    return ResidentSet(
        torch.empty(images, *shape.input_shape, dtype=stored_as(shape.input_shape)),
        torch.empty(images, dtype=torch.int64),
        torch.empty(channels),
        torch.empty(channels),
    )
