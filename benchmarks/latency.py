"""How long the commands people type take, as whole processes.

    uv run python benchmarks/latency.py --runs 20 --out benchmarks/results/latency.json

`gpuq submit` of ten files and `gpuq status` of a hundred jobs, one run of each in turn; minimum, median and maximum.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

JOB = '[model]\nname = "resv1"\n[matrix]\n"train.seed" = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n'


def seconds(arguments: list[str], home: Path) -> float:
    began = time.perf_counter()
    subprocess.run(arguments, env={**os.environ, "GPUQ_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(runs: int) -> dict[str, list[float]]:
    gpuq = str(Path(sys.executable).with_name("gpuq"))
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(10):
            file = Path(folder) / f"{number}.toml"
            file.write_text(JOB)
            files.append(str(file))
        seconds([gpuq, "submit", "--no-start", *files], Path(folder) / "full")
        commands = {
            "gpuq submit, 10 files": [gpuq, "submit", "--no-start", *files],
            "gpuq status, 100 jobs": [gpuq, "status"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(-1, runs):  # the first is a warm-up
            for name, command in commands.items():
                home = Path(folder) / ("full" if "status" in name else f"new-{run}")
                spent = seconds(command, home)
                if run >= 0:
                    taken[name].append(spent)
        return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    taken = measure(options.runs)
    for name, spent in taken.items():
        low, middle, high = (1000 * pick(spent) for pick in (min, statistics.median, max))
        print(f"{name}: min {low:.0f}, median {middle:.0f}, max {high:.0f} ms")
    if options.out is not None:
        about = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "python": platform.python_version()}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        options.out.write_text(json.dumps({**about, "date": date, "seconds": taken}, indent=1) + "\n")


if __name__ == "__main__":
    main()
