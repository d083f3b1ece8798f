"""What the benchmarks of memory share: gpuq as a person runs it, what a result file says of its machine, accuracy."""

import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.run_dir import write_atomically

MiB = 1 << 20

Row = Mapping[str, Any]  # of a result file: what is known of one configuration


def gpuq(home: Path, *arguments: str, timeout_s: float | None = None) -> str:
    """What `gpuq ARGUMENTS` prints. A job that failed is a result; a command that did ends the benchmark."""
    command = [sys.executable, "-P", "-m", "scheduler.cli", *arguments]
    environment = {**os.environ, "GPUQ_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode not in (0, 1):
        raise SystemExit(f"gpuq {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def estimated(home: Path, files: Iterable[Path], device: str) -> list[dict[str, Any]]:
    """What `gpuq estimate` says of each job of the files, in order. Ends the benchmark if one cannot be estimated."""
    estimates = json.loads(gpuq(home, "estimate", "--json", "--device", device, *map(str, files)))["estimates"]
    if failed := [f"{one['name']}: {one['error']}" for one in estimates if one.get("error")]:
        raise SystemExit("\n".join(failed))
    return list(estimates)


def run_queue(home: Path, files: Iterable[Path], device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """What became of the jobs of these files, run by gpuq, by name.

    Those that time leaves unfinished are left out, and cancelled: nothing that comes later is to wait for them.
    """
    command = [sys.executable, "-P", "-m", "scheduler.cli", "run", "--device", device, *map(str, files)]
    running = subprocess.Popen(command, env={**os.environ, "GPUQ_HOME": str(home)}, stdout=subprocess.DEVNULL)
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)  # its workers stop, too
        running.wait()
    jobs = json.loads(gpuq(home, "status", "--json"))["jobs"]
    if unfinished := [str(job["id"]) for job in jobs if job["outcome"] is None]:
        gpuq(home, "cancel", *unfinished)
    latest = {job["name"]: job for job in sorted(jobs, key=lambda job: int(job["id"]))}
    return {name: job for name, job in latest.items() if job["outcome"] is not None}


def about() -> dict[str, Any]:
    """The machine, the versions and the date of a result."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "kornia")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Replace a result file, which is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")


@dataclass(frozen=True)
class Accuracy:
    """How predictions did. An error is predicted ÷ measured − 1; shares, not percent."""

    count: int
    median_error: float  # of absolute errors, as the next one
    error_95th: float
    worst_under: float  # the smallest error, or 0
    worst_over: float  # the largest error, or 0
    above_reservation: int  # how many needed more than the prediction and its margin
    worst_above: float  # measured ÷ reservation − 1 of the worst of these, or 0
    over_reservation: float  # reservation ÷ measured − 1, on average


def accuracy(predicted: Sequence[float], measured: Sequence[float], reserved: Sequence[float]) -> Accuracy:
    """Of one prediction each, and what was reserved by it."""
    errors = [guess / truth - 1 for guess, truth in zip(predicted, measured, strict=True)]
    excess = [truth / held - 1 for truth, held in zip(measured, reserved, strict=True)]
    return Accuracy(
        count=len(errors),
        median_error=statistics.median(map(abs, errors)),
        error_95th=quantile([abs(error) for error in errors], 0.95),
        worst_under=min(0.0, *errors),
        worst_over=max(0.0, *errors),
        above_reservation=sum(one > 0 for one in excess),
        worst_above=max(0.0, *excess),
        over_reservation=statistics.fmean(held / truth - 1 for truth, held in zip(measured, reserved, strict=True)),
    )


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def by_family(rows: Iterable[Row], judge: Callable[[Sequence[Row]], Accuracy]) -> dict[str, Accuracy]:
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    return {name: judge(members) for name, members in sorted(families.items())}


def as_json(accuracies: Mapping[str, Accuracy]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in accuracies.items()}


def show(title: str, accuracies: Mapping[str, Accuracy]) -> None:
    """A Markdown table, in percent."""
    print(f"| {title} | jobs | median error | 95th | worst under | worst over | above reservation | over-reserved |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, one in accuracies.items():
        shares = (one.median_error, one.error_95th, one.worst_under, one.worst_over)
        percents = " | ".join(f"{100 * share:.1f} %" for share in shares)
        print(f"| {name} | {one.count} | {percents} | {one.above_reservation} | {100 * one.over_reservation:.1f} % |")


def worst(rows: Iterable[Row], error: Callable[[Row], float], count: int = 5) -> list[str]:
    """The configurations with the largest errors, by name."""
    return [
        f"{row['name']} {100 * error(row):+.1f} %" for row in sorted(rows, key=lambda row: -abs(error(row)))[:count]
    ]
