"""What the jobs of a state directory did, as a table and as JSON with machine, versions and date.

GPUQ_HOME=… uv run gpuq run benchmarks/real-images.toml
GPUQ_HOME=… uv run python benchmarks/report.py --out benchmarks/results/real-images-cpu.json
"""

import argparse
import json
import os
import platform
import statistics
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.run_dir import read_metrics
from scheduler.device import choose_device
from scheduler.home import Home, default_home
from scheduler.overview import look
from scheduler.render import progress
from scheduler.status import JobReport


def row(home: Home, job: JobReport) -> dict[str, Any]:
    """One job: how it ended, how fast it trained, and its memory against the estimate."""
    lines = read_metrics(home.run_dir(job.id).metrics)
    return {
        "id": job.id,
        "name": job.name,
        "network": job.network,
        "parameters": job.parameters,
        "outcome": job.outcome or job.state,
        "progress": progress(job),
        "best_train_accuracy": max((line.train_accuracy for line in lines), default=None),
        "best_validation_accuracy": job.best_validation_accuracy,
        "test_accuracy": job.test_accuracy,
        "images_per_s": statistics.median(line.images_per_s for line in lines) if lines else None,
        "elapsed_s": job.elapsed_s,
        "estimate_bytes": job.estimate_bytes,
        "estimate_basis": job.estimate_basis,
        "reservation_bytes": job.reservation_bytes,
        "peak_bytes": job.peak_bytes,
        "spans": [[attempt.started_at, attempt.ended_at] for attempt in job.attempts],
    }


def most_at_once(rows: list[dict[str, Any]]) -> int:
    """The largest number of attempts alive in the same second."""
    spans = [span for one in rows for span in one["spans"] if span[1] is not None]
    return max((sum(start <= moment < end for start, end in spans) for moment, _ in spans), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    home = default_home()
    told = look(home, None, "auto", None)
    rows = [row(home, job) for job in told.jobs]
    print(
        "| network | parameters | progress | train / validation / test, % | images/s | minutes | estimate → peak, MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in rows:
        accuracies = (one[f"{key}_accuracy"] for key in ("best_train", "best_validation", "test"))
        percents = " / ".join("–" if value is None else f"{100 * value:.1f}" for value in accuracies)
        memory = f"{(one['estimate_bytes'] or 0) / 2**20:,.0f} → {(one['peak_bytes'] or 0) / 2**20:,.0f}"
        speed, minutes = one["images_per_s"] or 0, (one["elapsed_s"] or 0) / 60
        print(
            f"| {one['network']} | {one['parameters'] or 0:,} | {one['progress']} | {percents} | {speed:,.0f} "
            f"| {minutes:.1f} | {memory} |"
        )
    above = [one["name"] for one in rows if (one["peak_bytes"] or 0) > (one["reservation_bytes"] or 0)]
    print(f"\nat most {most_at_once(rows)} at once; above their reservation: {', '.join(above) or 'none'}")
    if options.out is not None:
        about = {
            "device": choose_device().snapshot({}).name,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("torch", "torchvision", "kornia")},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "most_at_once": most_at_once(rows),
        }
        options.out.write_text(json.dumps({**about, "jobs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
