"""A job as it was asked for: frozen, validated, complete. Every default is the block study's value.

Nothing here imports torch: `gpuq submit` validates a hundred job files in milliseconds.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from augment.catalog import DATASETS, POLICY_NAMES
from jobs.units import Interval, parse_bytes, parse_duration, parse_interval

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0, le=1000)]
AboveZero = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Below1 = Annotated[float, Meta(ge=0, lt=1)]
Factor = Annotated[float, Meta(gt=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]

MAX_NAME_LENGTH = 100
EPOCHS = 200


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Which network, and what its builder is given besides the data's classes and channels."""

    name: str
    options: dict[str, Any] = {}


class DataSpec(Struct, frozen=True, kw_only=True):
    """Which data, how it is split, and how pixels become what a network sees.

    A `split` of two parts is training and validation of the labelled part; the test part is then the official one.
    """

    name: Literal[tuple(DATASETS)] = "cifar10"  # type: ignore[valid-type]
    root: str = "~/datasets"
    split: tuple[Fraction, ...] | Literal["official"] = (0.8, 0.1, 0.1)
    limit: Positive | None = None
    image_size: Positive | None = None
    augment: Literal[POLICY_NAMES] = "easy"  # type: ignore[valid-type]
    chunk_size: Positive | None = None  # images augmented in one stroke; None: what suits the device
    pixel_range: Literal[1, 255] = 1  # pixels run from 0 to this when `mean` and `std` are applied
    mean: tuple[float, ...] | None = None  # taken away, per channel; None: that of the training images
    std: tuple[AboveZero, ...] | None = None  # then divided by; None: that of the training images

    def __post_init__(self) -> None:
        if self.split == "official":
            return
        if len(self.split) not in (2, 3):
            raise ValueError('split: expected "official", or the fractions of training, validation and, if any, test')
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split: the parts must sum to 1, these sum to {sum(self.split):g}")
        if min(self.split) <= 0:
            raise ValueError("split: each part needs a fraction above 0")


class TrainSpec(Struct, frozen=True, kw_only=True):
    """How long, in epochs or in iterations (optimizer steps), and how."""

    epochs: Positive | None = None  # 200 where iterations are not given either
    iterations: Positive | None = None
    evaluate_every: Positive | None = (
        None  # iterations from one evaluation and line of metrics to the next; None: an epoch
    )
    batch_size: Positive = 256
    seed: Seed = 42
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_every: str = "1m"  # a duration, or such as "5 epochs"

    def __post_init__(self) -> None:
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("iterations: training is counted in epochs or in iterations, not in both")
        if self.epochs is None and self.iterations is None:
            msgspec.structs.force_setattr(self, "epochs", EPOCHS)
        try:
            parse_interval(self.checkpoint_every)
        except ValueError as error:
            raise ValueError(f"checkpoint_every: {error}") from None

    @property
    def checkpoint_interval(self) -> Interval:
        return parse_interval(self.checkpoint_every)


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


class Warmup(Struct, frozen=True, kw_only=True):
    """How every schedule begins: rising linearly, step by step, to the rate, or constant at `warmup_lr`."""

    warmup_epochs: NotNegative = 0
    warmup_iterations: NotNegative = 0  # in place of epochs
    warmup_lr: Rate | None = None

    def __post_init__(self) -> None:
        if self.warmup_epochs and self.warmup_iterations:
            raise ValueError(
                f"warmup_iterations: in place of warmup_epochs, which is {self.warmup_epochs}: set that to 0"
            )
        if self.warmup_lr is not None and not (self.warmup_epochs or self.warmup_iterations):
            raise ValueError("warmup_lr: needs warmup_epochs or warmup_iterations")


class Plateau(Warmup, frozen=True, kw_only=True, tag_field="name", tag="plateau"):
    """Multiply the rate by `factor` after `patience` evaluations without a lower validation loss."""

    warmup_epochs: NotNegative = 5
    factor: Factor = 0.5
    patience: NotNegative = 4
    min_lr: Annotated[float, Meta(ge=0)] = 1e-7


class Cosine(Warmup, frozen=True, kw_only=True, tag_field="name", tag="cosine"):
    """Half a cosine from the rate down to `final_lr`, over what follows the warmup."""

    final_lr: Annotated[float, Meta(ge=0)] = 0.0


class Steps(Warmup, frozen=True, kw_only=True, tag_field="name", tag="steps"):
    """Multiply the rate by `factor` at each of the `milestones`: epochs, or iterations where training counts these."""

    milestones: tuple[Positive, ...] = (100, 150)
    factor: Factor = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones: expected epochs or iterations in rising order")


class Constant(Warmup, frozen=True, kw_only=True, tag_field="name", tag="constant"):
    """The rate as it is."""


class DiagnosticsSpec(Struct, frozen=True, kw_only=True):
    """What is recorded besides the metrics."""

    gradient_flow: bool = False  # mean absolute gradients of every layer, a line an evaluation
    landscape: bool = False  # the loss around the best weights, after training
    landscape_grid: Annotated[int, Meta(ge=3, le=501)] = 25  # points a side
    landscape_images: Positive | None = None  # of the test part; None: all


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


class LimitsSpec(Struct, frozen=True, kw_only=True):
    """How long a job may take, and how long it may stand still. Durations such as `"6h"`."""

    time: str | None = None  # of training, over all attempts since a person last had it tried again
    hang: str = "10m"  # without progress; longer where the job's own pace says so

    def __post_init__(self) -> None:
        for name in ("time", "hang"):
            text = getattr(self, name)
            try:
                if text is not None and parse_duration(text) <= 0:
                    raise ValueError(f"expected a duration above 0, got {text!r}")
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    @property
    def time_s(self) -> float | None:
        return None if self.time is None else parse_duration(self.time)

    @property
    def hang_s(self) -> float:
        return parse_duration(self.hang)


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
    limits: LimitsSpec = LimitsSpec()
    diagnostics: DiagnosticsSpec = DiagnosticsSpec()

    @property
    def root(self) -> Path | None:
        """Where the data lies; None for what is drawn."""
        return None if DATASETS[self.data.name].drawn else Path(self.data.root)


def encode(spec: JobSpec) -> bytes:
    """The spec as JSON, the same bytes for equal specs."""
    return msgspec.json.encode(spec, order="sorted")


def decode(text: bytes | str) -> JobSpec:
    """The inverse of `encode`. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(text, type=JobSpec)
