"""How many bytes a job will need, and how sure that is.

The figures of a new job are traced in a child process (`jobs.estimator`); a job whose like has run here is placed by
what that really used. How much is added to either is learned from what earlier attempts used (`scheduler.margin`).
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jobs.spec import JobSpec, Sgd
from scheduler import margin
from scheduler.states import Outcome

MiB = 1 << 20

OUT_OF_MEMORY_GROWTH = 1.5
_PEAK_STEPS = 2  # at least: of the first step the optimizer's state is not there yet


class Basis(StrEnum):
    DECLARED = "declared"  # [resources] memory
    MEASURED = "measured"  # this job's like ran here before
    MODELLED = "modelled"  # traced
    PROBED = "probed"  # none yet: it cannot be traced, so a few steps alone on the device are to measure it


# Until enough is known of a device. Resident memory peaks of one job lay within 6 % of each other (the quickstart's,
# on the CPU), modelled ones within 5 % of what jobs used (docs/results.md, "Memory").
PRIOR_MARGINS = {Basis.MEASURED: 0.10, Basis.MODELLED: 0.15}


class Estimate(Struct, frozen=True, kw_only=True):
    """Predicted peak bytes of a job, and the reservation that covers it."""

    bytes: int
    basis: Basis
    margin: float  # the reservation is bytes × (1 + margin)
    components: dict[str, int] = {}
    parameters: int | None = None
    largest_batch_size: int | None = None  # that would fit the device; None: it fits as it is, or none is known

    @property
    def reservation_bytes(self) -> int:
        """Whole MiB, so that a reservation reads the same everywhere."""
        return -(-int(self.bytes * (1 + self.margin)) // MiB) * MiB


class History(Struct, frozen=True, kw_only=True):
    """What attempts on one device have taught about the memory that jobs need."""

    peak_bytes: Mapping[str, int] = {}  # by signature: the largest peak of attempts that showed it
    exceeded_bytes: Mapping[str, int] = {}  # by signature: the most that an attempt needed, which ran out of memory
    ratios: Mapping[Basis, Sequence[float]] = {}  # of measured to predicted bytes

    def margin(self, basis: Basis) -> float:
        """Of a modelled or a measured estimate."""
        return margin.learned(self.ratios.get(basis, ()), PRIOR_MARGINS[basis])


# By so much at most: a process of the CPU's estimator finds a little more or less for the imports than the one before.
ESTIMATES_VARY_BYTES = 4 * MiB


def most_bytes(capacity_bytes: int, history: History) -> int:
    """The largest bytes that a trace may predict of a job that is to fit in `capacity_bytes`, traced by any process."""
    return max(0, int(capacity_bytes // MiB * MiB / (1 + history.margin(Basis.MODELLED))) - ESTIMATES_VARY_BYTES)


def declared(size_bytes: int) -> Estimate:
    """A person's own figure is taken at its word."""
    return Estimate(bytes=size_bytes, basis=Basis.DECLARED, margin=0.0)


def probed() -> Estimate:
    """Of a network that cannot be traced: nothing is known, and it will be given the whole device to show its peak."""
    return Estimate(bytes=0, basis=Basis.PROBED, margin=0.0)


def modelled(components: dict[str, int], parameters: int, largest_batch_size: int | None = None) -> Estimate:
    """What a trace predicts, with the margin of a device of which nothing is known."""
    return Estimate(
        bytes=sum(components.values()),
        basis=Basis.MODELLED,
        margin=PRIOR_MARGINS[Basis.MODELLED],
        components=components,
        parameters=parameters,
        largest_batch_size=largest_batch_size,
    )


def measured(peak_bytes: int, traced: Estimate | None = None) -> Estimate:
    """The largest peak that a job of the same signature reached; what was traced about it besides stays."""
    known = Estimate(bytes=peak_bytes, basis=Basis.MEASURED, margin=PRIOR_MARGINS[Basis.MEASURED])
    if traced is None:
        return known
    return replace(traced, bytes=known.bytes, basis=known.basis, margin=known.margin)


def best(
    spec: JobSpec, signature: str, history: History, traced: Estimate | None, largest_bytes: int | None = None
) -> Estimate | None:
    """The most trusted estimate there is: declared before measured before modelled; None if there is none.

    Its margin is what the history of the device says, and more if a job of this signature ran out of memory with that;
    `largest_bytes` is what the device has for one job.
    """
    if (size_bytes := spec.resources.memory_bytes) is not None:
        return declared(size_bytes)
    peak_bytes = history.peak_bytes.get(signature)
    known = traced if peak_bytes is None else measured(peak_bytes, traced)
    if known is None or known.basis is Basis.PROBED:
        return known
    known = replace(known, margin=history.margin(known.basis))
    return beyond(known, history.exceeded_bytes.get(signature), largest_bytes)


def beyond(estimate: Estimate, exceeded_bytes: int | None, largest_bytes: int | None = None) -> Estimate:
    """The estimate with a reservation of half as much again as what was not enough, if anything was not; but no more
    than the `largest_bytes` of the device, unless these were not enough.

    A prediction above that knows it already, and stays.
    """
    if exceeded_bytes is None or estimate.bytes > exceeded_bytes or estimate.basis is Basis.PROBED:
        return estimate
    wanted = exceeded_bytes * OUT_OF_MEMORY_GROWTH
    if largest_bytes is not None and (whole := largest_bytes // MiB * MiB) > exceeded_bytes:
        wanted = min(wanted, whole - MiB / 2)  # a reservation is rounded up
    return replace(estimate, margin=max(estimate.margin, wanted / estimate.bytes - 1))


def shows_its_peak(
    spec: JobSpec, outcome: Outcome, start_step: int | None, last_step: int, steps_to_peak: int | None = None
) -> bool:
    """Whether an ended attempt went through all that takes memory: its peak is then that of every job like it.

    It trained from `start_step` (None: it never began) to an evaluation at `last_step`. That has to be `steps_to_peak`
    steps, as its worker told, even of a whole training: its like may be longer. A landscape may take more than before.
    """
    if start_step is None or last_step - start_step < (steps_to_peak or _PEAK_STEPS):
        return False
    return outcome is Outcome.SUCCEEDED or not spec.diagnostics.landscape


def needed_at_least(reservation_bytes: int, held_bytes: int, requested_bytes: int | None) -> int | None:
    """What an attempt that ran out of memory needed at least; None if that is not known.

    Its reservation, as a rule. Less if it had not come so far: then somebody else's memory was in the way.
    """
    return max(held_bytes, min(reservation_bytes, held_bytes + (requested_bytes or 0))) or None


def signature(spec: JobSpec, device_kind: str) -> str:
    """The same for two jobs that need the same memory: not the name, the rates, the seed or the length.

    A user's file counts by its content, and one that cannot be read by having none: tracing says what is wrong with it.
    Another torch is another memory: its libraries, kernels and workspaces are.
    """
    landscape = spec.diagnostics.landscape
    relevant = [
        device_kind,
        _torch_version(),
        _network_identity(spec),
        _data_identity(spec),
        spec.train.batch_size,
        spec.train.precision,
        _optimizer_identity(spec),
        [landscape, spec.diagnostics.landscape_images if landscape else None],
        spec.resources.threads if device_kind == "cpu" else None,
    ]
    return hashlib.blake2b(msgspec.json.encode(relevant, order="sorted"), digest_size=16).hexdigest()


@cache
def _torch_version() -> str:
    """As its distribution tells it: torch is not imported here."""
    from importlib.metadata import version

    return version("torch")


def _data_identity(spec: JobSpec) -> list[object]:
    """Not how pixels are scaled: the resident data are the bytes that were decoded."""
    data = spec.data
    root = None if spec.root is None else str(spec.root)
    return [data.name, root, data.split, data.limit, data.image_size, data.augment, data.chunk_size]


def _optimizer_identity(spec: JobSpec) -> list[object]:
    """SGD with momentum keeps a buffer; with weight decay its step makes a copy of all gradients (torch.optim.sgd,
    `_multi_tensor_sgd`). Adam and AdamW are alike.
    """
    optimizer = spec.optimizer
    if isinstance(optimizer, Sgd):
        return ["sgd", optimizer.momentum > 0, optimizer.weight_decay > 0]
    return ["adam"]


def _network_identity(spec: JobSpec) -> list[object]:
    file, colon, _ = spec.model.name.rpartition(":")
    content = ""
    if colon and file.endswith(".py"):
        with contextlib.suppress(OSError), Path(file).open("rb") as source:
            content = hashlib.file_digest(source, "blake2b").hexdigest()
    return [spec.model.name, spec.model.options, content]
