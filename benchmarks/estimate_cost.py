"""How long estimates take: the first in a process, and each one after it.

    uv run python benchmarks/estimate_cost.py --seed 1 --out benchmarks/results/estimate-cost.json

Every listed network with the block study's recipe, and some of torchvision's largest, in an order drawn by the seed,
traced by one process (`jobs.estimator`) as a dispatcher has them traced, one after the other; then a few processes
more, for their first. Seconds by the clock, and of the CPU, which other programs on the machine disturb less.
"""

import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import harness
import msgspec
import psutil

import models.registry
from jobs.spec import DataSpec, JobSpec, ModelSpec, TrainSpec
from jobs.trace_messages import Message, Reply, Request
from scheduler.tracing import ESTIMATOR

TORCHVISION = ("resnet50", "vit_b_16", "swin_t", "convnext_tiny", "vgg16", "efficientnet_b0")
FIRST_RUNS = 3
LIMIT_FIRST_S, LIMIT_S = 6.0, 1.5


def jobs(seed: int) -> list[JobSpec]:
    networks = [
        *((network.name, "spirals" if network.takes_points else "cifar10") for network in models.registry.listed()),
        *((f"torchvision:{name}", "cifar10") for name in TORCHVISION),
    ]
    return [
        JobSpec(
            name=name,
            model=ModelSpec(name=name, options={"image_size": 32} if name.endswith("vit_b_16") else {}),
            data=DataSpec(name=data, augment="none" if data == "spirals" else "hard3"),
            train=TrainSpec(batch_size=128),
        )
        for name, data in random.Random(seed).sample(networks, len(networks))
    ]


def timed(specs: Iterable[JobSpec], cache: Path) -> list[dict[str, Any]]:
    """What each estimate took in one new process; the first's includes its start and imports."""
    rows = []
    began, cpu_before = time.perf_counter(), 0.0
    with subprocess.Popen(
        ESTIMATOR,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},  # as scheduler.tracing_process
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for key, spec in enumerate(specs):
            request = Request(
                key=key,
                spec=spec,
                device="cpu",
                precision="fp32",
                cache_dir=str(cache),
                prepare=spec.data.name == "spirals",
            )
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
            reply = _reply(process.stdout)
            cpu = _cpu_s(process.pid)
            rows.append(
                {
                    "network": spec.model.name,
                    "seconds": time.perf_counter() - began,
                    "cpu_s": cpu - cpu_before,
                    "error": reply.error,
                }
            )
            began, cpu_before = time.perf_counter(), cpu
        process.stdin.close()
    return rows


def _reply(lines: Iterable[bytes]) -> Reply:
    return next(one for line in lines if isinstance(one := msgspec.json.decode(line, type=Message), Reply))


def _cpu_s(pid: int) -> float:
    """Of a process and its children, be they over or not."""
    process = psutil.Process(pid)
    each = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system + one.children_user + one.children_system for one in each))


def report(rows: list[dict[str, Any]], firsts: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {}
    for key in ("seconds", "cpu_s"):
        first, later = [row[key] for row in firsts], sorted(row[key] for row in rows[1:])
        within = sum(taken <= LIMIT_S for taken in later)
        summary[key] = {
            "first, median": statistics.median(first),
            "first, most": max(first),
            "later, median": statistics.median(later),
            "later, most": later[-1],
            f"later, within {LIMIT_S:g} s": f"{within} of {len(later)}",
        }
        print(
            f"{key:8}",
            *(f"{name}: {value if isinstance(value, str) else f'{value:.2f}'}" for name, value in summary[key].items()),
            sep="  ",
        )
    for row in sorted(rows[1:], key=lambda row: -row["cpu_s"])[:6]:
        print(f"    {row['network']:32}{row['seconds']:6.2f} s{row['cpu_s']:6.2f} s of the CPU")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    drawn = jobs(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows = timed(drawn, Path(folder))
        firsts = [rows[0], *(timed([spec], Path(folder))[0] for spec in drawn[1 : 1 + FIRST_RUNS])]
    if failed := [f"{row['network']}: {row['error']}" for row in [*rows, *firsts] if row["error"] is not None]:
        raise SystemExit("\n".join(failed))
    summary = report(rows, firsts)
    harness.write(
        options.out, {**harness.about(), "seed": options.seed, "summary": summary, "first": firsts, "rows": rows}
    )


if __name__ == "__main__":
    main()
