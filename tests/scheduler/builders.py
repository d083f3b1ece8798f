"""Records with everything filled in, so that a test names only what it is about."""

from typing import Any

import msgspec

from jobs.run_dir import ExitRecord, Launch, Metrics
from jobs.spec import DataSpec, JobSpec, ModelSpec, ResourcesSpec, TrainSpec
from scheduler.estimate import Basis
from scheduler.records import Attempt, Origin, Prediction
from scheduler.states import Outcome

MiB = 1 << 20
STEPS = 100  # of an epoch
GiB = 1 << 30
NOON = "2026-11-21T12:00:00Z"
ORIGIN = Origin(directory="/home/me/study", git_commit="c0ffee", git_dirty=False)


def spec(
    name: str = "job",
    *,
    network: str = "resv1",
    options: dict[str, Any] | None = None,
    priority: int = 0,
    epochs: int = 10,
    memory: str | None = None,
    threads: int = 1,
) -> JobSpec:
    return JobSpec(
        name=name,
        model=ModelSpec(name=network, options=options or {}),
        priority=priority,
        data=DataSpec(name="shapes"),
        train=TrainSpec(epochs=epochs),
        resources=ResourcesSpec(memory=memory, threads=threads),
    )


def prediction(signature: str = "like-this", **fields: Any) -> Prediction:
    """Of 400 MiB, modelled."""
    values: dict[str, Any] = {
        "device_kind": "cpu",
        "device_name": "a machine",
        "predicted_bytes": 400 * MiB,
        "basis": Basis.MODELLED,
    }
    return Prediction(signature=signature, **(values | fields))


def attempt(outcome: Outcome | None = None, *, number: int = 1, **columns: Any) -> Attempt:
    """An attempt of job 1: ended with `outcome`, or live if that is None."""
    values: dict[str, Any] = {
        "job_id": 1,
        **msgspec.structs.asdict(prediction()),
        "reservation_bytes": 512 * MiB,
        "started_at": NOON,
        "ended_at": None if outcome is None else NOON,
        "reason": None,
        "pid": None,
        "exit_code": None,
        "peak_bytes": None,
        "shows_peak": False,
        "start_step": 0,
    }
    return Attempt(number=number, outcome=outcome, **(values | columns))


def ended(**fields: Any) -> ExitRecord:
    return ExitRecord(**({"started_at": NOON, "ended_at": NOON} | fields))


def metrics(epoch: int, *, accuracy: float = 0.5, elapsed_s: float | None = None, peak_bytes: int = MiB) -> Metrics:
    """The line of an epoch; an epoch takes ten seconds unless `elapsed_s` says otherwise."""
    return Metrics(
        epoch=epoch,
        step=STEPS * epoch,
        lr=0.05,
        train_loss=1.0,
        train_accuracy=0.5,
        validation_loss=1.0,
        validation_accuracy=accuracy,
        images_per_s=1000.0,
        elapsed_s=10.0 * epoch if elapsed_s is None else elapsed_s,
        peak_bytes=peak_bytes,
    )


def launch(
    number: int = 1,
    *,
    resident_limit_bytes: int | None = None,
    grace_s: float = 30.0,
    hang_s: float | None = None,
) -> Launch:
    return Launch(
        number=number,
        device="cpu",
        precision="fp32",
        reservation_bytes=GiB,
        context_bytes=0,
        resident_limit_bytes=resident_limit_bytes,
        grace_s=grace_s,
        cache_dir="/nowhere",
        environment={"GPUQ_TEST": "from the launch"},
        hang_s=hang_s,
    )
