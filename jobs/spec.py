"""A job as it was asked for: frozen, validated, complete. Every default is the block study's value.

Nothing here imports torch: `gpuq submit` validates a hundred job files in milliseconds.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from augment.catalog import POLICY_NAMES
from jobs.units import parse_bytes, parse_duration

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0, le=1000)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Below1 = Annotated[float, Meta(ge=0, lt=1)]
Factor = Annotated[float, Meta(gt=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]

MAX_NAME_LENGTH = 100


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Which network, and what its builder is given besides the data's classes and channels."""

    name: str
    options: dict[str, Any] = {}


class DataSpec(Struct, frozen=True, kw_only=True):
    name: Literal["cifar10", "cifar100", "imagefolder", "shapes"] = "cifar10"
    root: str = "~/datasets"
    split: tuple[Fraction, Fraction, Fraction] | Literal["official"] = (0.8, 0.1, 0.1)
    limit: Positive | None = None
    image_size: Positive | None = None
    augment: Literal[POLICY_NAMES] = "easy"  # type: ignore[valid-type]
    chunk_size: Positive | None = None  # images augmented in one stroke; None: what suits the device

    def __post_init__(self) -> None:
        if self.split == "official":
            return
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split: the three parts must sum to 1, these sum to {sum(self.split):g}")
        if min(self.split) <= 0:
            raise ValueError("split: training, validation and test each need a part above 0")


class TrainSpec(Struct, frozen=True, kw_only=True):
    epochs: Positive = 200
    batch_size: Positive = 256
    seed: Seed = 42
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_every: str = "1m"  # written at the end of an epoch once this much time has passed

    def __post_init__(self) -> None:
        try:
            parse_duration(self.checkpoint_every)
        except ValueError as error:
            raise ValueError(f"checkpoint_every: {error}") from None

    @property
    def checkpoint_every_s(self) -> float:
        return parse_duration(self.checkpoint_every)


class Sgd(Struct, frozen=True, kw_only=True, tag_field="name", tag="sgd"):
    lr: Rate = 0.05
    momentum: Below1 = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0")


class Adam(Struct, frozen=True, kw_only=True, tag_field="name", tag="adam"):
    lr: Rate = 1e-3
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0


class AdamW(Struct, frozen=True, kw_only=True, tag_field="name", tag="adamw"):
    lr: Rate = 1e-3
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01


class Plateau(Struct, frozen=True, kw_only=True, tag_field="name", tag="plateau"):
    """Multiply the rate by `factor` after `patience` epochs without a lower validation loss."""

    warmup_epochs: NotNegative = 5
    factor: Factor = 0.5
    patience: NotNegative = 4
    min_lr: Annotated[float, Meta(ge=0)] = 1e-7


class Cosine(Struct, frozen=True, kw_only=True, tag_field="name", tag="cosine"):
    """Half a cosine from the rate down to `final_lr`, over the epochs after the warmup."""

    warmup_epochs: NotNegative = 0
    final_lr: Annotated[float, Meta(ge=0)] = 0.0


class Steps(Struct, frozen=True, kw_only=True, tag_field="name", tag="steps"):
    """Multiply the rate by `factor` at each of the `milestones`, counted in epochs."""

    milestones: tuple[Positive, ...] = (100, 150)
    factor: Factor = 0.1
    warmup_epochs: NotNegative = 0

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones: expected epochs in rising order")


class Constant(Struct, frozen=True, kw_only=True, tag_field="name", tag="constant"):
    warmup_epochs: NotNegative = 0


class ResourcesSpec(Struct, frozen=True, kw_only=True):
    memory: str | None = None  # declared, in place of an estimate
    threads: Positive = 1  # CPU threads; on the CPU device the cores a job takes

    def __post_init__(self) -> None:
        if self.memory is not None:
            try:
                parse_bytes(self.memory)
            except ValueError as error:
                raise ValueError(f"memory: {error}") from None

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else parse_bytes(self.memory)


Optimizer = Sgd | Adam | AdamW
Schedule = Plateau | Cosine | Steps | Constant

OPTIMIZERS: dict[str, type[Struct]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}
SCHEDULES: dict[str, type[Struct]] = {
    "plateau": Plateau,
    "cosine": Cosine,
    "steps": Steps,
    "constant": Constant,
}


class JobSpec(Struct, frozen=True, kw_only=True):
    """Everything that decides how a job trains. Two equal specs train alike."""

    name: str
    model: ModelSpec
    priority: int = 0
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Plateau()
    resources: ResourcesSpec = ResourcesSpec()

    @property
    def root(self) -> Path | None:
        """Where the data lies; None for `shapes`, which is drawn."""
        return None if self.data.name == "shapes" else Path(self.data.root)


def encode(spec: JobSpec) -> bytes:
    """The spec as JSON, the same bytes for equal specs."""
    return msgspec.json.encode(spec, order="sorted")


def decode(text: bytes | str) -> JobSpec:
    """The inverse of `encode`. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(text, type=JobSpec)
