"""Estimates against measured peaks: random small jobs, estimated first, then run, each within its reservation or not.

    uv run python benchmarks/memory.py --jobs 24 --seed 1 --out benchmarks/results/memory-cpu.json

Jobs are drawn by the seed before anything runs: network × width × batch × optimizer × augmentation, two epochs of
`shapes` each. Prints a row a job and the errors' median and worst; the JSON holds all of it with machine and versions.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

NETWORKS = (
    "baseline-130k",
    "baseline-430k",
    "resv1",
    "bn4",
    "bn8",
    "deb",
    "hwyv1",
    "hwyv2",
    "bv1",
    "bv2",
    "bnv1",
    "bnv2",
)
OPTIMIZERS = ("sgd", "adam", "adamw")
POLICIES = ("none", "crop-flip", "easy", "hard2", "hard3")


def draw_job(random_: random.Random, number: int) -> str:
    """A job file's text."""
    network = random_.choice(NETWORKS)
    stages = "" if network.startswith("baseline") else f"blocks = {random_.choice([[1, 1, 1, 1], [1, 2, 1, 2]])}\n"
    return f"""name = "{number:02d}-{network}"
[model]
name = "{network}"
width = {random_.choice([16, 32])}
{stages}[data]
name = "shapes"
limit = {random_.choice([500, 2500])}
augment = "{random_.choice(POLICIES)}"
[train]
epochs = 2
batch_size = {random_.choice([32, 64, 128, 256])}
[optimizer]
name = "{random_.choice(OPTIMIZERS)}"
[schedule]
warmup_epochs = 1
"""


def gpuq(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "scheduler.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, "GPUQ_HOME": str(home)}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return done.stdout


def measure(count: int, seed: int) -> list[dict[str, Any]]:
    """Estimate all, run all, and put both beside each other."""
    random_ = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(count):
            file = Path(folder) / f"{number:02d}.toml"
            file.write_text(draw_job(random_, number))
            files.append(str(file))
        home = Path(folder) / "home"
        estimates = json.loads(gpuq(home, "estimate", "--json", *files))["estimates"]
        gpuq(home, "run", *files)
        jobs = json.loads(gpuq(home, "status", "--json"))["jobs"]
    return [
        {
            "name": job["name"],
            "outcome": job["outcome"],
            "estimate_bytes": estimate["estimate_bytes"],
            "reservation_bytes": estimate["reservation_bytes"],
            "peak_bytes": job["peak_bytes"],
            "error": estimate["estimate_bytes"] / job["peak_bytes"] - 1,
            "attempts": len(job["attempts"]),
            "components": estimate["components"],
        }
        for estimate, job in zip(estimates, jobs, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.jobs, options.seed)
    print(f"{'job':24} {'estimate':>9} {'reserved':>9} {'peak':>9} {'error':>7}  (MiB)")
    for row in rows:
        sizes = [row[key] / 2**20 for key in ("estimate_bytes", "reservation_bytes", "peak_bytes")]
        print(
            f"{row['name']:24} {sizes[0]:9.0f} {sizes[1]:9.0f} {sizes[2]:9.0f} {100 * row['error']:+6.1f}%  "
            f"{row['outcome']}"
        )
    errors = [row["error"] for row in rows]
    above = [row["name"] for row in rows if row["peak_bytes"] > row["reservation_bytes"]]
    print(
        f"median |error| {100 * statistics.median(map(abs, errors)):.1f} %, worst under {100 * min(errors):.1f} %, ",
        end="",
    )
    print(f"worst over {100 * max(errors):.1f} %; above their reservation: {above or 'none'}")
    if options.out is not None:
        about = {
            "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
            "versions": {name: version(name) for name in ("torch", "torchvision", "kornia")},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": options.seed,
        }
        options.out.write_text(json.dumps({**about, "jobs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
