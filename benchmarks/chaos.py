"""Kill dispatchers, parent processes and workers at random while small jobs train; nothing may be lost or differ.

    uv run python benchmarks/chaos.py --seconds 240 --seed 1

Prints kills, jobs, lost (did not succeed), doubled (had two live attempts at once) and differing (metrics unlike those
of the same jobs left in peace); exit code 0 if the last three are 0. Runs on the CPU.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.run_dir import ProcessRecord, read_metrics, read_record
from scheduler.background import running_dispatcher
from scheduler.home import Home
from scheduler.store import Store

JOBS = """
[model]
name = "resv1"
width = 4
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
limit = 2500
[train]
epochs = 10
batch_size = 32
checkpoint_every = "0s"
[schedule]
warmup_epochs = 1
[matrix]
"train.seed" = [0, 1, 2, 3, 4, 5]
"""
LEAST_S, MOST_S = 1.0, 5.0  # between two kills; a worker takes about 3 s to its first epoch
LEARNING = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def gpuq(home: Home, *arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "scheduler.cli", *arguments]
    environment = {**os.environ, "GPUQ_HOME": str(home.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def targets(home: Home, store: Store) -> dict[str, list[int]]:
    """The pids that can be killed now, by what they are."""
    found: dict[str, list[int]] = {"dispatcher": [], "parent": [], "worker": []}
    if (dispatcher := running_dispatcher(store)) is not None:
        found["dispatcher"].append(dispatcher.pid)
    for attempt in store.live_attempts():
        processes = read_record(home.run_dir(attempt.job_id).attempt(attempt.number).process, ProcessRecord)
        if processes is not None:
            found["parent"].append(processes.parent_pid)
            found["worker"].append(processes.worker_pid)
    return found


def torment(home: Home, store: Store, random_: random.Random, seconds: float) -> Counter[str]:
    """Kill, and start a dispatcher where none is left, until the time is up or all jobs have ended."""
    kills: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end and store.has_unfinished():
        time.sleep(random_.uniform(LEAST_S, MOST_S))
        if running_dispatcher(store) is None:
            gpuq(home, "start", "--device", "cpu")
        kind = random_.choice(["dispatcher", "parent", "worker"])
        for pid in random_.sample(candidates := targets(home, store)[kind], min(1, len(candidates))):
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
                kills[kind] += 1
    return kills


def finish(home: Home, store: Store) -> None:
    """Leave the jobs in peace until they have ended."""
    while store.has_unfinished():
        if running_dispatcher(store) is None:
            gpuq(home, "start", "--device", "cpu")
        time.sleep(1.0)


def learned(home: Home, job_id: int) -> list[tuple[Any, ...]]:
    return [tuple(getattr(line, key) for key in LEARNING) for line in read_metrics(home.run_dir(job_id).metrics)]


def overlapping(attempts: list[dict[str, Any]]) -> bool:
    """Whether one attempt began before the one before it had ended."""
    return any(later["started_at"] < (sooner["ended_at"] or "9") for sooner, later in pairwise(attempts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.toml"
        file.write_text(JOBS)
        tormented, peaceful = Home(Path(folder) / "tormented").create(), Home(Path(folder) / "peaceful").create()
        gpuq(tormented, "submit", "--device", "cpu", str(file))
        store = Store(tormented.store)
        kills = torment(tormented, store, random.Random(options.seed), options.seconds)
        finish(tormented, store)
        gpuq(tormented, "stop")
        gpuq(peaceful, "run", "--device", "cpu", str(file))
        jobs = json.loads(gpuq(tormented, "status", "--json"))["jobs"]
        lost = [job["id"] for job in jobs if job["outcome"] != "succeeded"]
        doubled = [job["id"] for job in jobs if overlapping(job["attempts"])]
        differing = [job["id"] for job in jobs if learned(tormented, job["id"]) != learned(peaceful, job["id"])]
    attempts = sum(len(job["attempts"]) for job in jobs)
    print(f"kills: {sum(kills.values())} ({', '.join(f'{kind} {count}' for kind, count in sorted(kills.items()))})")
    print(f"jobs: {len(jobs)}, attempts: {attempts}")
    print(f"lost: {len(lost)}, doubled: {len(doubled)}, differing: {len(differing)}")
    sys.exit(1 if lost or doubled or differing else 0)


if __name__ == "__main__":
    main()
