"""`gpuq plot`: read or compute what is to be seen, draw it, and tell where the picture is."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from augment.catalog import DATASETS
from jobs.errors import GpuqError, InputError
from jobs.run_dir import FlowLine, Metrics, read_lines, read_metrics
from scheduler.comparison import At, chosen
from scheduler.home import Home
from scheduler.landscapes import Wanted, find_or_make, show_landscapes
from scheduler.records import Job
from scheduler.store import Store
from scheduler.subjects import Choice, choose, in_one_line, load, refuse_lost


def plot_gradient_flow(home: Home, job_id: int, out: Path | None) -> Path:
    """Draw the gradients that a job has recorded. Raises GpuqError if it has not."""
    from scheduler.pictures.curves import counted_by
    from scheduler.pictures.figure import save
    from scheduler.pictures.gradient_flow import gradient_flow_figure

    path = _picture("gradient-flow", [str(job_id)], out)
    job = Store(home.store).job(job_id)
    if not job.spec.diagnostics.gradient_flow:
        raise GpuqError(f"job {job_id} records no gradients: its file needs [diagnostics] gradient_flow = true")
    files = home.run_dir(job_id)
    refuse_lost(files, f"{job.id} {job.name}")
    lines = read_lines(files.gradient_flow, FlowLine)
    if not lines:
        raise GpuqError(f"job {job_id} has recorded no gradients yet: the first come with its first line of metrics")
    save(gradient_flow_figure(f"{job.id} {job.name}", lines, by=counted_by([job.spec.train])), path)
    return path


def plot_curves(home: Home, ids: Sequence[int], ema: float, out: Path | None) -> Path:
    """Draw loss and accuracy of jobs over their training. Raises GpuqError if one has no metrics yet."""
    from scheduler.pictures.curves import Curves, counted_by, curves_figure
    from scheduler.pictures.figure import save

    path = _picture("curves", [str(job_id) for job_id in ids], out)
    jobs = Store(home.store).jobs(ids)
    runs = [Curves(title=f"{job.id} {job.name}", lines=_metrics(home, job)) for job in jobs]
    save(curves_figure(runs, ema=ema, by=counted_by(job.spec.train for job in jobs)), path)
    return path


def plot_accuracy(home: Home, ids: Sequence[int], key: str, at: At, out: Path | None) -> Path:
    """Draw what jobs reached against a key of their files. Raises InputError for a key that a job does not have."""
    from scheduler.against import places
    from scheduler.pictures.accuracy import Reached, accuracy_figure
    from scheduler.pictures.figure import save

    path = _picture("accuracy", [str(job_id) for job_id in ids], out)
    jobs = Store(home.store).jobs(ids)
    reached = [
        Reached(place=place, train=line.train_accuracy, validation=line.validation_accuracy)
        for job, place in zip(jobs, places([job.spec for job in jobs], key), strict=True)
        if (line := chosen(_metrics(home, job), at)) is not None
    ]
    save(accuracy_figure(key, reached), path)
    return path


def _metrics(home: Home, job: Job) -> list[Metrics]:
    files = home.run_dir(job.id)
    refuse_lost(files, f"{job.id} {job.name}")
    return read_metrics(files.metrics)


def plot_boundaries(home: Home, words: Sequence[str], device: str, out: Path | None) -> Path:
    """Draw what networks decide around their points. Raises GpuqError, before data are read, for those of images."""
    from jobs.diagnostics.boundary import evaluate
    from scheduler.pictures.boundary import boundary_figure
    from scheduler.pictures.figure import save

    path = _picture("boundary", words, out)
    choices = choose(home, words)
    for choice in choices:
        _refuse_images(choice)
    drawn = []
    for subject in load(home, choices, device):
        train = subject.data.train
        with in_one_line(subject.title):
            boundary = evaluate(subject.network.eval(), train.images, train.labels, train.inputs)
        drawn.append((subject.title, boundary))
    save(boundary_figure(drawn), path)
    return path


def _refuse_images(choice: Choice) -> None:
    data = choice.spec.data.name
    if not DATASETS[data].points:
        raise GpuqError(
            f"{choice.title}: a boundary is drawn over points of the plane, such as spirals; {data} holds images"
        )


def plot_landscapes(home: Home, words: Sequence[str], wanted: Wanted, device: str, out: Path | None) -> Path:
    """Draw the loss around networks, on one scale, and print it in figures."""
    from scheduler.pictures.figure import save
    from scheduler.pictures.landscape import landscapes_figure

    if wanted.span is not None and not math.isfinite(wanted.span):
        raise InputError([f"--span: expected a finite number above 0, got {wanted.span}"])
    path = _picture("landscape", words, out)
    drawn = [
        (choice.title, find_or_make(home, choice, wanted, device, path.with_suffix(f".{_plain(choice.title)}.json")))
        for choice in choose(home, words)
    ]
    save(landscapes_figure(drawn), path)
    show_landscapes(drawn)
    return path


def _picture(what: str, words: Sequence[str], out: Path | None) -> Path:
    """Where the picture goes: checked before anything is computed. Raises InputError."""
    from scheduler.pictures.figure import check_path

    names = "-".join(_plain(Path(word).stem) for word in words)
    path = out or Path(f"{what}-{names[:80]}.png")
    check_path(path)
    return path


def _plain(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
