"""How resident memory goes on in longer trainings on the CPU, and what workers keep once they have given back.

    uv run python benchmarks/creep.py --minutes 10 --out benchmarks/results/creep-cpu.json

Twelve networks, 15 epochs each: the estimate against the peak at the end, that peak against the one at the first
evaluation and at the first that found it settled, and how near it came to what the worker had kept.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import MiB

from jobs.run_dir import RunDir, read_metrics
from jobs.surplus import GROWTH

JOBS = """
name = "creep"
[data]
name = "shapes"
limit = 1000
augment = "hard2"
[train]
epochs = 15
batch_size = 64
precision = "fp32"
[optimizer]
name = "sgd"
lr = 0.02
[matrix]
"model.name" = {networks}
"""
NETWORKS = [
    *("baseline-130k", "bn4", "vgg08", "resnet-20", "plainnet-20", "alexnet", "mlp", "cnn", "hwyv1"),
    *("torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x1_0", "torchvision:resnet18"),
]

FIGURES = "error", "above_first", "above_settled", "room_left"


def row(job: dict[str, Any]) -> dict[str, Any]:
    """What one job's evaluations and its end say, in bytes and shares."""
    peaks = [line.peak_bytes for line in read_metrics(RunDir(Path(job["run_dir"])).metrics)]
    pairs = itertools.pairwise(peaks)
    settled = next((later for earlier, later in pairs if later <= earlier * (1 + GROWTH["cpu"])), peaks[-1])
    end = max(one["peak_bytes"] for one in job["attempts"])
    return {
        "name": job["name"],
        "outcome": job["outcome"],
        "attempts": len(job["attempts"]),
        "estimate_bytes": job["estimate_bytes"],
        "kept_bytes": (kept := job["attempts"][-1]["reservation_bytes"]),
        "peak_bytes": end,
        "error": job["estimate_bytes"] / end - 1,
        "above_first": end / peaks[0] - 1,
        "above_settled": end / settled - 1,
        "room_left": 1 - end / kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10, help="what the runs may take; the rest is left out")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "creep.toml"
        file.write_text(JOBS.format(networks=json.dumps(NETWORKS)))
        jobs = harness.run_queue(Path(folder) / "home", [file], "cpu", 60 * options.minutes)
        rows = [row(job) for job in jobs.values()]
    for one in rows:
        shares = "".join(f"{key.replace('_', ' '):>16} {100 * one[key]:+5.1f} %" for key in FIGURES)
        print(f"{one['name']:36}{one['peak_bytes'] / MiB:6.0f} of {one['kept_bytes'] / MiB:6.0f} MiB{shares}")
    summary = {
        key: {
            "median": statistics.median(one[key] for one in rows),
            "median_absolute": statistics.median(abs(one[key]) for one in rows),
            "least": min(one[key] for one in rows),
            "most": max(one[key] for one in rows),
        }
        for key in FIGURES
    }
    print(*(f"{key}: {found}" for key, found in summary.items()), sep="\n")
    harness.write(options.out, {**harness.about(), "summary": summary, "jobs": rows})


if __name__ == "__main__":
    main()
