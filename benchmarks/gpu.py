"""How far estimates can be trusted on a GPU that nobody else uses, in about ten minutes.

    python benchmarks/gpu.py --minutes 9 --out benchmarks/results/gpu.json

1. Measure the machine's constants (`gpuq doctor --calibrate`), and let gpuq run other jobs to learn its margins from.
2. Draw configurations, estimate them, and write both to the result before any runs.
3. Run each alone in a fresh process capped at its reservation; one that runs out of memory counts, and is run again
   uncapped to know by how much.
4. Run some again, reserved by what they were measured to use.
5. Have gpuq pack the lot, and watch the device.

The result is whole after each run: a benchmark that is cut short has told what it knew. `--device cpu` shows that it
works where there is no GPU; resident memory is then the only figure, and is not capped.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alternatives
import configurations
import harness
from harness import Accuracy, Row, accuracy
from report import most_at_once

from jobs.job_file import read_job_files
from jobs.run_dir import ExitCode, Launch, RunDir, write_record
from jobs.spec import JobSpec
from scheduler.device import Device, Snapshot, choose_device
from scheduler.errors import DeviceUnreadableError
from scheduler.estimate import measured as measured_estimate
from scheduler.home import Home

WORKER = Path(__file__).with_name("gpu_worker.py")
CALIBRATION_SEED = 1_000_003  # added to the seed of what is tested
REPEATS = 10
# Of the time: when each stage is over at the latest, so that every stage has some.
CALIBRATED, RUN, REPEATED = 0.25, 0.75, 0.82
RUN_S = 90.0  # that one run may take
SAMPLE_S = 0.1


@dataclass
class Bench:
    """What all stages need, and the result as far as it is known."""

    device: Device
    name: str  # as gpuq's --device
    folder: Path
    home: Home
    began: float
    minutes: float
    out: Path
    result: dict[str, Any] = field(default_factory=dict)

    def left_s(self, share: float) -> float:
        """Of the time up to a share of all, at least none."""
        return max(0.0, self.began + 60 * self.minutes * share - time.monotonic())

    def save(self, **known: Any) -> None:
        self.result |= known
        self.result["seconds"] = round(time.monotonic() - self.began)
        harness.write(self.out, self.result)

    def used_bytes(self) -> int:
        """On the device, by anybody."""
        return self.device.snapshot({}).used_by_others_bytes


def calibrate(bench: Bench, count: int, seed: int) -> set[str]:
    """Constants, and margins from other jobs, which are returned by what they are, to be left out of the test."""
    try:
        harness.gpuq(bench.home.path, "doctor", "--calibrate", "--device", bench.name)
        constants = "measured"
    except SystemExit as error:
        constants = str(error)
    drawn = configurations.draw(count, seed + CALIBRATION_SEED, bench.device.kind, bench.folder / "images")
    files = [one.write(make(bench.folder / "calibration")) for one in drawn]
    jobs = harness.run_queue(bench.home.path, files, bench.name, bench.left_s(CALIBRATED)) if files else {}
    told = [
        {key: job[key] for key in ("name", "outcome", "reason", "estimate_bytes", "peak_bytes")}
        for job in jobs.values()
    ]
    bench.save(constants=constants, calibration=told)
    return {what(one) for one in drawn}


def what(configuration: configurations.Configuration) -> str:
    """A configuration but for its name."""
    return configuration.toml.partition("\n")[2]


def draw(bench: Bench, count: int, seed: int, known: set[str]) -> list[dict[str, Any]]:
    """The configurations that are tested, with their estimates, saved before any of them runs."""
    drawn = configurations.draw(count + len(known), seed, bench.device.kind, bench.folder / "images")
    drawn = [one for one in drawn if what(one) not in known][:count]
    files = [one.write(make(bench.folder / "jobs")) for one in drawn]
    snapshot = bench.device.snapshot({})
    rows = []
    for one, found in zip(drawn, harness.estimated(bench.home.path, files, bench.name), strict=True):
        estimate = {key: found[key] for key in ("estimate_bytes", "margin", "reservation_bytes", "components")}
        rows.append({"name": one.name, "family": one.family, "toml": one.toml, **estimate})
    too_large = [row["name"] for row in rows if row["reservation_bytes"] > snapshot.budget_bytes]
    rows = [row for row in rows if row["name"] not in too_large]
    bench.save(too_large_for_the_device=too_large, jobs=rows)
    return rows


def run_all(bench: Bench, rows: Sequence[dict[str, Any]], specs: Mapping[str, JobSpec]) -> None:
    """Each alone, capped at its reservation; again without a cap if that was not enough."""
    for row in rows:
        if bench.left_s(RUN) <= 0:
            break
        spec, context = specs[row["name"]], row["components"].get("context", 0)
        row["capped"] = run(bench, spec, row["reservation_bytes"], context)
        row["measured"] = row["capped"]
        if row["capped"]["outcome"] == ExitCode.OUT_OF_MEMORY.name:
            row["measured"] = run(bench, spec, bench.device.snapshot({}).total_bytes, context)
        bench.save(jobs=rows)


def run_again(bench: Bench, rows: Sequence[dict[str, Any]], specs: Mapping[str, JobSpec]) -> None:
    """Some, with the reservation that a job of a known signature gets on a machine without more history."""
    for row in succeeded(rows)[:REPEATS]:
        if bench.left_s(REPEATED) <= 0:
            break
        known = measured_estimate(row["measured"]["process_bytes"])
        context = row["components"].get("context", 0)
        row["repeated"] = run(bench, specs[row["name"]], known.reservation_bytes, context)
        bench.save(jobs=rows)


def run(bench: Bench, spec: JobSpec, reservation_bytes: int, context_bytes: int) -> dict[str, Any]:
    """One run in a fresh process: how it ended, and its peaks."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        files = RunDir(Path(folder) / "run")
        files.create(spec)
        environment = {**os.environ, **bench.device.environment(spec.resources.threads)}
        launch = Launch(
            number=1,
            device=bench.device.torch_device,
            precision=spec.train.precision,
            reservation_bytes=reservation_bytes,
            context_bytes=context_bytes,
            resident_limit_bytes=None,
            grace_s=0.0,
            cache_dir=str(bench.home.cache),
            environment={},
        )
        write_record(files.attempt(1).launch, launch)
        command = [sys.executable, str(WORKER), str(files.path), str(bench.used_bytes())]
        began = time.monotonic()
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_S)
        except subprocess.TimeoutExpired:
            return {"outcome": "TIMED_OUT"}
        outcome = ExitCode(ended.returncode).name if ended.returncode in list(ExitCode) else str(ended.returncode)
        row = {"outcome": outcome, "seconds": time.monotonic() - began}
        if outcome not in (ExitCode.SUCCEEDED.name, ExitCode.OUT_OF_MEMORY.name):
            row["error"] = ended.stderr.strip().rpartition("\n")[2]
        with contextlib.suppress(FileNotFoundError):
            row |= json.loads((files.path / "measured.json").read_text())
        return row


def pack(bench: Bench, files: Sequence[Path]) -> None:
    """All at once by gpuq: how many ran at a time, which ran out of memory, and what the device had in use."""
    with watching(bench.device) as used:
        jobs = harness.run_queue(bench.home.path, files, bench.name, bench.left_s(1.0))
    packed = [jobs[file.stem] for file in files if file.stem in jobs]
    spans = [{"spans": [[one["started_at"], one["ended_at"]] for one in job["attempts"]]} for job in packed]
    attempts = [attempt for job in packed for attempt in job["attempts"]]
    snapshot = bench.device.snapshot({})
    bench.save(
        packing={
            "jobs": len(files),
            "ended": len(packed),
            "succeeded": sum(job["outcome"] == "succeeded" for job in packed),
            "attempts": len(attempts),
            "out_of_memory": sum(attempt["outcome"] == "out_of_memory" for attempt in attempts),
            "most_at_once": most_at_once(spans) if packed else 0,
            "most_used_bytes": max(used, default=None),
            "total_bytes": snapshot.total_bytes,
            "headroom_bytes": snapshot.headroom_bytes,
            "samples_over_budget": sum(one > snapshot.total_bytes - snapshot.headroom_bytes for one in used),
        }
    )


@contextlib.contextmanager
def watching(device: Device) -> Iterator[list[int]]:
    """The bytes in use on a GPU, sampled while inside; none on the CPU, whose memory others use, too."""
    used: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            with contextlib.suppress(DeviceUnreadableError):
                used.append(device.snapshot({}).used_by_others_bytes)

    thread = threading.Thread(target=watch)
    if device.kind != "cpu":
        thread.start()
    try:
        yield used
    finally:
        over.set()
        if device.kind != "cpu":
            thread.join()


def succeeded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("measured", {}).get("outcome") == ExitCode.SUCCEEDED.name]


def predicted(row: Row, figure: str) -> float:
    """gpuq's own figure of a job's `process`, `reserved` or `allocated` bytes, or an alternative's of the process."""
    components = row["components"]
    beside_process = {"process": 0, "reserved": components.get("context", 0)}
    beside_process["allocated"] = beside_process["reserved"] + components.get("allocator slack", 0)
    if figure in beside_process:
        return float(row["estimate_bytes"] - beside_process[figure])
    return float(row["alternatives"][figure] + components.get("context", components.get("process", 0)))


def judge(rows: Sequence[Row], figure: str = "process") -> Accuracy:
    """How a figure did; what would be reserved by it is the figure and gpuq's margin."""
    told = [predicted(row, figure) for row in rows]
    measure = f"{figure}_bytes" if f"{figure}_bytes" in rows[0]["measured"] else "process_bytes"
    reserved = [guess * (1 + row["margin"]) for guess, row in zip(told, rows, strict=True)]
    return accuracy(told, [row["measured"][measure] for row in rows], reserved)


def repeats(rows: Sequence[Row]) -> dict[str, Accuracy]:
    """How well a first run tells the second."""
    known = [row for row in rows if "process_bytes" in row.get("repeated", {})]
    if not known:
        return {}
    first = [row["measured"]["process_bytes"] for row in known]
    held = [measured_estimate(peak).reservation_bytes for peak in first]
    return {"repeated": accuracy(first, [row["repeated"]["process_bytes"] for row in known], held)}


def report(bench: Bench, rows: Sequence[dict[str, Any]], told: Mapping[str, Mapping[str, int | None]]) -> None:
    """Print and save how all of it did."""
    for row in rows:
        row["alternatives"] = told.get(row["name"], {})
    known, capped = succeeded(rows), [row for row in rows if "capped" in row]
    failed = [f"{row['name']}: {row['capped']}" for row in capped if row["capped"]["outcome"] != "SUCCEEDED"]
    print(f"{len(capped)} of {len(rows)} run, {len(known)} measured; not within their cap: {failed or 'none'}")
    summary: dict[str, Any] = {"run": len(capped), "measured": len(known), "failed": failed}
    if known:
        figures = [one for one in ("process", "reserved", "allocated") if f"{one}_bytes" in known[0]["measured"]]
        overall = {figure: judge(known, figure) for figure in figures} | repeats(known)
        for name in alternatives.ALTERNATIVES:
            if with_it := [row for row in known if row["alternatives"].get(name) is not None]:
                overall[name] = judge(with_it, name)
        families = harness.by_family(known, judge)
        harness.show("figure", overall)
        harness.show("family", families)
        print("worst:", "; ".join(worst := harness.worst(known, error)))
        summary |= {"worst": worst, "figures": harness.as_json(overall), "families": harness.as_json(families)}
    print("packing:", bench.result.get("packing"))
    bench.save(jobs=rows, summary=summary)


def error(row: Row) -> float:
    return float(row["estimate_bytes"] / row["measured"]["process_bytes"] - 1)


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def about(snapshot: Snapshot) -> dict[str, Any]:
    told = {"device": snapshot.name, "total_bytes": snapshot.total_bytes}
    return {**harness.about(), **told, "used_by_others_bytes": snapshot.used_by_others_bytes}


def bench_all(bench: Bench, count: int, calibration: int, seed: int) -> None:
    bench.save(**about(bench.device.snapshot({})), seed=seed)
    configurations.make_images(bench.folder / "images")
    rows = draw(bench, count, seed, calibrate(bench, calibration, seed))
    files = [bench.folder / "jobs" / f"{row['name']}.toml" for row in rows]
    specs = {spec.name: spec for _, spec in read_job_files(files)}
    with alternatives.asking(files) as others:
        run_all(bench, rows, specs)
        run_again(bench, rows, specs)
        pack(bench, files)
        report(bench, rows, others(bench.left_s(1.0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--calibration-jobs", type=int, default=20, help="other jobs, to learn margins from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9, help="for all of it; stops early with what it has")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home").create()
        bench = Bench(device, options.device, Path(folder), home, began, options.minutes, options.out)
        bench_all(bench, options.jobs, options.calibration_jobs, options.seed)


if __name__ == "__main__":
    main()
