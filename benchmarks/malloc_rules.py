"""What the rules that workers on the CPU allocate by (`jobs.malloc`) cost in time and save in memory.

    uv run python benchmarks/malloc_rules.py --rounds 5 --out benchmarks/results/malloc-rules.json

A few jobs, each trained with and without the rules in turn, one worker at a time: images per second and peak of
resident memory, as ratios of neighbouring runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness
from harness import MiB

from jobs.job_file import read_job_files
from jobs.malloc import ENVIRONMENT
from jobs.run_dir import Launch, Peak, RunDir, read_metrics, read_record, write_record
from jobs.spec import JobSpec
from scheduler.device import CpuDevice

JOBS = """
[data]
name = "shapes"
limit = 2000
augment = "hard3"
[train]
iterations = 40
evaluate_every = 20
batch_size = {batch}
precision = "{precision}"
checkpoint_every = "1h"
[optimizer]
name = "adam"
[matrix]
"model.name" = {networks}
"""
SMALL, LARGE = ["baseline-130k", "bn8", "mlp"], ["resnet-20", "torchvision:mobilenet_v2"]
FILES = {
    "fp32": JOBS.format(batch=64, precision="fp32", networks=json.dumps(SMALL)),
    "bf16": JOBS.format(batch=64, precision="bf16", networks=json.dumps(SMALL[:2])),
    "fp32-128": JOBS.format(batch=128, precision="fp32", networks=json.dumps(LARGE)),
}


def train(spec: JobSpec, folder: Path, cache: Path, rules: Mapping[str, str]) -> tuple[float, int]:
    """Images per second in the second half of a job's training, by a worker of its own, and its peak in bytes."""
    files = RunDir(folder)
    files.create(spec)
    attempt = files.attempt(1)
    launch = Launch(
        number=1,
        device="cpu",
        precision=spec.train.precision,
        reservation_bytes=1 << 40,
        context_bytes=0,
        resident_limit_bytes=None,
        grace_s=60,
        cache_dir=str(cache),
        environment={},
    )
    write_record(attempt.launch, launch)
    inherited = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    own = {name: value for name, value in CpuDevice().environment(1).items() if name not in ENVIRONMENT}
    command = [sys.executable, "-P", "-m", "jobs.worker", str(folder), "1"]
    subprocess.run(command, env={**inherited, **own, **rules}, check=True, stdout=subprocess.DEVNULL)
    peak = read_record(attempt.peak, Peak)
    assert peak is not None
    return read_metrics(files.metrics)[-1].images_per_s, peak.peak_bytes


def compare(specs: Mapping[str, JobSpec], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Of each job: speed and peak with the rules, as shares of those without, in each round."""
    rows = []
    for name, spec in specs.items():
        found: list[tuple[float, float]] = []
        peaks: list[float] = []
        for number in range(rounds):
            sides = [("with", ENVIRONMENT), ("without", {})]
            got = {
                side: train(spec, folder / f"{name}-{number}-{side}", folder / "cache", rules)
                for side, rules in (sides if number % 2 else sides[::-1])
            }
            found.append((got["with"][0] / got["without"][0], got["with"][1] / got["without"][1]))
            peaks += [got["without"][1] / MiB]
        speed, memory = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"{name:28} speed {speed:5.2f}  memory {memory:5.2f}  of {min(peaks):.0f} to {max(peaks):.0f} MiB",
            flush=True,
        )
        rows.append({"name": name, "speed": speed, "memory": memory, "rounds": found, "peaks_without_mib": peaks})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, text in FILES.items():
            paths.append(Path(folder) / f"{name}.toml")
            paths[-1].write_text(f'name = "{name}"\n{text}')
        specs = {spec.name: spec for _, spec in read_job_files(paths)}
        train(next(iter(specs.values())), Path(folder) / "first", Path(folder) / "cache", {})  # prepares the data
        rows = compare(specs, options.rounds, Path(folder))
    overall = {key: statistics.geometric_mean(row[key] for row in rows) for key in ("speed", "memory")}
    print(f"geometric mean: speed {overall['speed']:.2f}, memory {overall['memory']:.2f}")
    harness.write(options.out, {**harness.about(), "rounds": options.rounds, **overall, "jobs": rows})


if __name__ == "__main__":
    main()
