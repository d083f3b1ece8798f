"""How far estimates can be trusted on a GPU that nobody else uses, in about ten minutes.

    python benchmarks/gpu.py --minutes 9 --out benchmarks/results/gpu.json

1. Measure the machine's constants (`gpuq doctor --calibrate`), and let gpuq run other jobs to learn its margins from.
2. Draw configurations, estimate them, and write both to the result before any runs.
3. Run each alone in a fresh process capped at its reservation (`--cap estimate`: without a margin); one that runs out
   of memory counts, and is run again uncapped to know by how much. The next process imports what it needs meanwhile,
   but opens no context.
4. Run some again, reserved by what they were measured to use.
5. Have gpuq pack the lot, all but a workstation's share of the device being held by another process, and watch it.

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
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alternatives
import configurations
import harness
import msgspec
from gpu_report import accuracies, succeeded
from report import most_at_once

from jobs.job_file import read_job_files
from jobs.run_dir import ExitCode, Launch, RunDir, write_record
from jobs.spec import JobSpec
from scheduler.calibration import take_up
from scheduler.device import Device, GiB, Snapshot, choose_device
from scheduler.errors import DeviceUnreadableError
from scheduler.estimate import Basis
from scheduler.estimate import measured as measured_estimate
from scheduler.home import Home

WORKER = Path(__file__).with_name("gpu_worker.py")
CALIBRATION_SEED = 1_000_003  # added to the seed of what is tested
REPEATS = 10
# Of the time: when each stage is over at the latest, so that every stage has some.
CALIBRATED, RUN, REPEATED = 0.25, 0.75, 0.82
RUN_S = 90.0  # that one run may take
LAST_S = 20.0  # that the alternatives may take once all else is done
SAMPLE_S = 0.1
PACKED_SHARE = 0.9  # of the budget: a larger job is not packed, lest the others wait for it

# Holds so many bytes of the GPU until its standard input ends.
HOLD = """
import sys, torch
kept = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
sys.stdin.read()
"""


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
    with contextlib.suppress(SystemExit):  # what came of it is kept, or the dispatcher's own try below
        harness.gpuq(bench.home.path, "doctor", "--calibrate", "--device", bench.name)
    drawn = configurations.draw(count, seed + CALIBRATION_SEED, bench.device.kind, bench.folder / "images")
    files = [one.write(make(bench.folder / "calibration")) for one in drawn]
    jobs = harness.run_queue(bench.home.path, files, bench.name, bench.left_s(CALIBRATED)) if files else {}
    told = [
        {key: job[key] for key in ("name", "outcome", "reason", "estimate_bytes", "peak_bytes")}
        for job in jobs.values()
    ]
    bench.save(constants=msgspec.to_builtins(take_up(bench.device, bench.home)), calibration=told)
    return {what(one) for one in drawn}


def what(configuration: configurations.Configuration) -> str:
    """A configuration but for its name."""
    return configuration.toml.partition("\n")[2]


def draw(bench: Bench, count: int, seed: int, known: set[str]) -> list[dict[str, Any]]:
    """The configurations that are tested, with their estimates, saved before any of them runs.

    None whose memory was measured in the calibration is among them.
    """
    drawn = configurations.draw(count + len(known), seed, bench.device.kind, bench.folder / "images")
    drawn = [one for one in drawn if what(one) not in known][:count]
    files = [one.write(make(bench.folder / "jobs")) for one in drawn]
    snapshot = bench.device.snapshot({})
    rows = []
    for one, found in zip(drawn, harness.estimated(bench.home.path, files, bench.name), strict=True):
        if found["basis"] != Basis.MODELLED:
            continue
        estimate = {key: found[key] for key in ("estimate_bytes", "margin", "reservation_bytes", "components")}
        rows.append({"name": one.name, "family": one.family, "toml": one.toml, **estimate})
    too_large = [row["name"] for row in rows if row["reservation_bytes"] > snapshot.budget_bytes]
    rows = [row for row in rows if row["name"] not in too_large]
    bench.save(too_large_for_the_device=too_large, jobs=rows)
    return rows


def run_all(bench: Bench, rows: Sequence[dict[str, Any]], specs: Mapping[str, JobSpec], cap: str) -> None:
    """Each alone, capped at its reservation or estimate; again without a cap if that was not enough."""
    with contextlib.closing(runs(bench, (specs[row["name"]] for row in rows))) as ready:
        for row, one in zip(rows, ready, strict=True):
            if bench.left_s(RUN) <= 0:
                break
            context = row["components"].get("context", 0)
            row["capped"] = one.go(row[f"{cap}_bytes"], context)
            row["measured"] = row["capped"]
            if row["capped"]["outcome"] == ExitCode.OUT_OF_MEMORY.name:
                with contextlib.closing(Run(bench, specs[row["name"]])) as again:
                    row["measured"] = again.go(bench.device.snapshot({}).total_bytes, context)
            bench.save(jobs=rows)


def run_again(bench: Bench, rows: Sequence[dict[str, Any]], specs: Mapping[str, JobSpec]) -> None:
    """Some, with the reservation that a job of a known signature gets on a machine without more history."""
    known = succeeded(rows)[:REPEATS]
    with contextlib.closing(runs(bench, (specs[row["name"]] for row in known))) as ready:
        for row, one in zip(known, ready, strict=True):
            if bench.left_s(REPEATED) <= 0:
                break
            reserved = measured_estimate(row["measured"]["reported_bytes"]).reservation_bytes
            row["repeated"] = one.go(reserved, row["components"].get("context", 0))
            bench.save(jobs=rows)


class Run:
    """One run in a fresh process, which imports what it needs at once, and touches the device when told to go."""

    def __init__(self, bench: Bench, spec: JobSpec) -> None:
        self._bench, self._spec = bench, spec
        self._folder = tempfile.TemporaryDirectory(dir=bench.folder)
        self._files = RunDir(Path(self._folder.name) / "run")
        self._files.create(spec)
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), str(self._files.path)],
            env={**os.environ, **bench.device.environment(spec.resources.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def go(self, reservation_bytes: int, context_bytes: int) -> dict[str, Any]:
        """How it ended, and its peaks."""
        launch = Launch(
            number=1,
            device=self._bench.device.torch_device,
            precision=self._spec.train.precision,
            reservation_bytes=reservation_bytes,
            context_bytes=context_bytes,
            resident_limit_bytes=None,
            grace_s=0.0,
            cache_dir=str(self._bench.home.cache),
            environment={},
        )
        write_record(self._files.attempt(1).launch, launch)
        began = time.monotonic()
        try:
            _, errors = self._process.communicate(f"{self._bench.used_bytes()}\n", timeout=RUN_S)
        except subprocess.TimeoutExpired:
            return {"outcome": "TIMED_OUT"}
        code = self._process.returncode
        outcome = ExitCode(code).name if code in list(ExitCode) else str(code)
        row = {"outcome": outcome, "seconds": time.monotonic() - began}
        if outcome != ExitCode.SUCCEEDED.name:
            row["error"] = errors.strip().rpartition("\n")[2]
        with contextlib.suppress(FileNotFoundError):
            row |= json.loads((self._files.path / "measured.json").read_text())
        return row

    def close(self) -> None:
        with self._process:
            self._process.kill()
        self._folder.cleanup()


def runs(bench: Bench, specs: Iterable[JobSpec]) -> Generator[Run, None, None]:
    """Runs of these jobs in turn: while one goes, the next one imports."""
    ready: list[Run] = []
    try:
        for spec in specs:
            ready.append(Run(bench, spec))
            if len(ready) > 1:
                yield ready[0]
                ready.pop(0).close()
        yield from ready
    finally:
        for one in ready:
            one.close()


def pack(bench: Bench, rows: Sequence[dict[str, Any]], within_bytes: int) -> None:
    """All at once by gpuq: how many ran at a time, which ran out of memory, and what the device had in use.

    Those that are too large for `within_bytes` of the device are left out.
    """
    with holding_all_but(bench.device, within_bytes), watching(bench.device) as used:
        before = bench.device.snapshot({})
        fitting = [row["name"] for row in rows if row["reservation_bytes"] <= PACKED_SHARE * before.budget_bytes]
        files = [bench.folder / "jobs" / f"{name}.toml" for name in fitting]
        jobs = harness.run_queue(bench.home.path, files, bench.name, bench.left_s(1.0)) if files else {}
    packed = [jobs[name] for name in fitting if name in jobs]
    spans = [{"spans": [[one["started_at"], one["ended_at"]] for one in job["attempts"]]} for job in packed]
    attempts = [attempt for job in packed for attempt in job["attempts"]]
    bench.save(
        packing={
            "jobs": len(files),
            "too_large": len(rows) - len(files),
            "ended": len(packed),
            "succeeded": sum(job["outcome"] == "succeeded" for job in packed),
            "attempts": len(attempts),
            "out_of_memory": sum(attempt["outcome"] == "out_of_memory" for attempt in attempts),
            "most_at_once": most_at_once(spans) if packed else 0,
            "budget_bytes": before.budget_bytes,
            "most_used_bytes": max(used, default=None),
            "used_by_others_bytes": before.used_by_others_bytes,
            "total_bytes": before.total_bytes,
            "headroom_bytes": before.headroom_bytes,
            "samples_over_budget": sum(one > before.total_bytes - before.headroom_bytes for one in used),
        }
    )


@contextlib.contextmanager
def holding_all_but(device: Device, left_bytes: int) -> Iterator[None]:
    """Inside, another process holds what a GPU has free beyond so many bytes; nothing of the CPU's memory."""
    snapshot = device.snapshot({})
    held_bytes = snapshot.total_bytes - snapshot.used_by_others_bytes - left_bytes
    if device.kind == "cpu" or held_bytes <= 0:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(held_bytes)],
        env={**os.environ, **device.environment(1)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # nothing, if it could not
            yield
        finally:
            process.kill()


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


def report(bench: Bench, rows: Sequence[dict[str, Any]], told: Mapping[str, Mapping[str, int | None]]) -> None:
    """Print and save how all of it did."""
    for row in rows:
        row["alternatives"] = told.get(row["name"], {})
    known, summary = succeeded(rows), dict[str, Any]()
    for runs_ in ("capped", "repeated"):
        tried = [row for row in rows if runs_ in row]
        failed = [f"{row['name']}: {row[runs_]}" for row in tried if row[runs_]["outcome"] != "SUCCEEDED"]
        print(f"{runs_}: {len(tried)} of {len(rows)} run; not within their cap: {failed or 'none'}")
        summary[runs_] = {"run": len(tried), "failed": failed}
    if known:
        summary |= accuracies(known)
    print("packing:", bench.result.get("packing"))
    bench.save(jobs=rows, summary=summary)


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def about(snapshot: Snapshot) -> dict[str, Any]:
    told = {"device": snapshot.name, "total_bytes": snapshot.total_bytes}
    return {**harness.about(), **told, "used_by_others_bytes": snapshot.used_by_others_bytes}


def bench_all(bench: Bench, options: argparse.Namespace) -> None:
    bench.save(**about(bench.device.snapshot({})), seed=options.seed, cap=options.cap)
    configurations.make_images(bench.folder / "images")
    known = calibrate(bench, options.calibration_jobs, options.seed)
    rows = draw(bench, options.jobs, options.seed, known)
    files = [bench.folder / "jobs" / f"{row['name']}.toml" for row in rows]
    specs = {spec.name: spec for _, spec in read_job_files(files)}
    with alternatives.asking(files) as others:
        run_all(bench, rows, specs, options.cap)
        run_again(bench, rows, specs)
        pack(bench, rows, int(options.pack_within * GiB))
        report(bench, rows, others(max(LAST_S, bench.left_s(1.0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--calibration-jobs", type=int, default=20, help="other jobs, to learn margins from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cap", choices=("reservation", "estimate"), default="reservation", help="of each run")
    parser.add_argument("--pack-within", type=float, default=24, help="GiB of the device that packing has")
    parser.add_argument("--minutes", type=float, default=9, help="for all of it; stops early with what it has")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home").create()
        bench = Bench(device, options.device, Path(folder), home, began, options.minutes, options.out)
        bench_all(bench, options)


if __name__ == "__main__":
    main()
