"""How many bytes a job will need, and how sure that is.

The figures of a new job are traced in a child process (`jobs.estimator`); a job whose like has run here is placed by
what that run really used.
"""

import contextlib
import hashlib
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from jobs.spec import JobSpec

MiB = 1 << 20

# Resident memory peaks of one job lay within 6 % of each other (the quickstart's, on the CPU); a modelled one has not
# been seen to run yet.
MEASURED_MARGIN = 0.10
MODELLED_MARGIN = 0.15
OUT_OF_MEMORY_GROWTH = 1.5


class Basis(StrEnum):
    DECLARED = "declared"  # [resources] memory
    MEASURED = "measured"  # this job's like ran here before
    MODELLED = "modelled"  # traced


class Estimate(Struct, frozen=True, kw_only=True):
    """Predicted peak bytes of a job, and the reservation that covers it."""

    bytes: int
    basis: Basis
    margin: float  # the reservation is bytes × (1 + margin)
    components: dict[str, int] = {}
    parameters: int | None = None

    @property
    def reservation_bytes(self) -> int:
        """Whole MiB, so that a reservation reads the same everywhere."""
        return -(-int(self.bytes * (1 + self.margin)) // MiB) * MiB


def declared(size_bytes: int) -> Estimate:
    """A person's own figure is taken at its word."""
    return Estimate(bytes=size_bytes, basis=Basis.DECLARED, margin=0.0)


def modelled(components: dict[str, int], parameters: int) -> Estimate:
    return Estimate(
        bytes=sum(components.values()),
        basis=Basis.MODELLED,
        margin=MODELLED_MARGIN,
        components=components,
        parameters=parameters,
    )


def measured(peak_bytes: int, traced: Estimate | None = None) -> Estimate:
    """The largest peak that a job of the same signature reached; what was traced about it besides stays."""
    return Estimate(
        bytes=peak_bytes,
        basis=Basis.MEASURED,
        margin=MEASURED_MARGIN,
        components={} if traced is None else traced.components,
        parameters=None if traced is None else traced.parameters,
    )


def best(spec: JobSpec, measured_peak: int | None, traced: Estimate | None) -> Estimate | None:
    """The most trusted estimate there is: declared before measured before modelled; None if there is none."""
    if (size_bytes := spec.resources.memory_bytes) is not None:
        return declared(size_bytes)
    return traced if measured_peak is None else measured(measured_peak, traced)


def grown(estimate: Estimate, out_of_memory: int) -> Estimate:
    """The estimate of a job that has just run out of memory so many times in a row."""
    factor = (1 + estimate.margin) * OUT_OF_MEMORY_GROWTH**out_of_memory
    return msgspec.structs.replace(estimate, margin=factor - 1)


def signature(spec: JobSpec, device_kind: str) -> str:
    """The same for two jobs that need the same memory: not the name, the rates, the seed or the length.

    A user's file counts by its content, and one that cannot be read by having none: tracing says what is wrong with it.
    """
    relevant = [
        device_kind,
        _network_identity(spec),
        msgspec.to_builtins(spec.data),
        spec.train.batch_size,
        spec.train.precision,
        type(spec.optimizer).__name__,
        getattr(spec.optimizer, "momentum", 0) > 0,
        spec.resources.threads,
    ]
    return hashlib.blake2b(msgspec.json.encode(relevant, order="sorted"), digest_size=16).hexdigest()


def _network_identity(spec: JobSpec) -> list[object]:
    file, colon, _ = spec.model.name.rpartition(":")
    content = ""
    if colon and file.endswith(".py"):
        with contextlib.suppress(OSError), Path(file).open("rb") as source:
            content = hashlib.file_digest(source, "blake2b").hexdigest()
    return [spec.model.name, spec.model.options, content]
