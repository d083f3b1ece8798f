"""`gpuq doctor`: whether gpuq can work here, and what to do where it cannot."""

import os
import sqlite3
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from jobs.calibrate import Message, Seen, Trouble
from jobs.errors import GpuqError
from jobs.room import free_bytes
from jobs.units import format_bytes
from scheduler import calibration as calibrations
from scheduler import leftovers
from scheduler.calibration_process import CALIBRATE, CalibrationProcess, Unknown
from scheduler.cli_types import as_ranges
from scheduler.device import Device
from scheduler.errors import DamagedStoreError, DeviceUnreadableError, StoreError
from scheduler.home import Home
from scheduler.leftovers import Leftover
from scheduler.process import resident_bytes
from scheduler.records import Job
from scheduler.store import Store

LEAST_FREE_BYTES = 1 << 30  # of a disk, if no checkpoint tells how much it takes
CHECKPOINTS = 4  # of a job at once: the last, the one before, the best, and the one being written
TORCH_LIMIT_S = 120.0


class Check(Struct, frozen=True, kw_only=True):
    """One thing that has to be right, how it is, and if it is wrong, what to do."""

    name: str
    found: str
    advice: str | None = None

    @property
    def is_right(self) -> bool:
        return self.advice is None


def examine(home: Home, device: Device) -> list[Check]:
    """All checks, in the order in which their problems are best solved."""
    store, jobs = check_store(home.store)
    unfinished = sum(job.outcome is None for job in jobs)
    return [
        check_device(device),
        check_torch(see(device), device.kind),
        check_calibration(home, device),
        check_folder(home.path),
        store,
        check_jobs(home.run_ids(), jobs),
        check_disk(free_bytes(home.path), largest_checkpoint(home, jobs), unfinished),
        check_leftovers(list(leftovers.find(home.runs)), device),
    ]


def check_device(device: Device) -> Check:
    try:
        snapshot, driver = device.snapshot({}), device.driver_version()
    except DeviceUnreadableError as error:
        return Check(name="device", found=str(error), advice="look what nvidia-smi says, or choose another --device")
    behind = "" if driver is None else f", driver {driver}"
    return Check(name="device", found=f"{snapshot.name}, {format_bytes(snapshot.total_bytes)}{behind}")


def see(device: Device) -> Message:
    """What torch sees of a device, from a process such as its workers are."""
    try:
        done = subprocess.run(
            [*CALIBRATE, device.torch_device],
            env={**os.environ, **device.environment(1)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TORCH_LIMIT_S,
            check=False,
        )
        message: Message = msgspec.json.decode(done.stdout, type=Message)
    except subprocess.TimeoutExpired:
        return Trouble(reason=f"torch has not answered for {TORCH_LIMIT_S:g} s")
    except msgspec.DecodeError:
        return Trouble(reason=f"a process that imports torch ends with code {done.returncode}")
    return message


def check_torch(message: Message, kind: str) -> Check:
    """By what torch has said on this kind of device."""
    match message:
        case Seen(name=name, torch=torch, cudnn=cudnn):
            return Check(name="torch", found=f"{torch}{f', cuDNN {cudnn}' if cudnn else ''}, sees {name}")
        case Trouble(reason=reason):
            which = "" if kind == "cpu" else " for a CUDA version that the driver supports, or use --device cpu"
            return Check(name="torch", found=reason, advice=f"install torch anew (pytorch.org){which}")
    raise AssertionError(message)


def check_folder(path: Path) -> Check:
    """Whether the state directory is its owner's alone."""
    status = path.stat()
    mode = status.st_mode & 0o777
    if status.st_uid != os.getuid():
        return Check(name="state", found=f"{path} belongs to another user", advice="set GPUQ_HOME to a folder of yours")
    if mode != 0o700:
        return Check(name="state", found=f"{path} has mode {mode:04o}", advice=f"chmod 700 {path}")
    return Check(name="state", found=f"{path}, yours alone")


def check_store(path: Path) -> tuple[Check, Sequence[Job]]:
    """Whether all of the store can be read, and is of this gpuq's schema; with the jobs in it."""
    if not path.exists():
        return Check(name="store", found="none yet"), []
    try:
        store = Store(path, even_if_full=True)
        store.check()
        jobs = store.jobs()
    except DamagedStoreError as error:
        advice = "gpuq doctor --rebuild restores the jobs; the damaged file is kept beside the new one"
        return Check(name="store", found=f"{path}: {error.what}", advice=advice), []
    except (StoreError, sqlite3.Error) as error:
        advice = "set GPUQ_HOME to another folder to go on without it"
        return Check(name="store", found=str(error), advice=advice), []
    return Check(name="store", found=f"readable, {len(jobs)} jobs"), jobs


def check_jobs(run_ids: Sequence[int], jobs: Iterable[Job]) -> Check:
    """Whether the store knows all jobs that there are: one that was made anew after a loss does not."""
    unknown = set(run_ids) - {job.id for job in jobs}
    if not unknown:
        return Check(name="jobs", found=f"those of all {len(run_ids)} run directories are in the store")
    found = f"not in the store, though they have run directories: {as_ranges(unknown)}"
    return Check(name="jobs", found=found, advice="gpuq doctor --rebuild puts them in")


def largest_checkpoint(home: Home, jobs: Iterable[Job]) -> int:
    """Bytes of the largest that a job has written, 0 if none has."""
    files = (home.run_dir(job.id) for job in jobs)
    checkpoints = (path for run in files for path in (run.last_checkpoint, run.best_checkpoint))
    return max((path.stat().st_size for path in checkpoints if path.exists()), default=0)


def check_disk(free_bytes: int, checkpoint_bytes: int, unfinished: int) -> Check:
    """Whether the checkpoints of all jobs will find room, were each as large as the largest there is."""
    needed_bytes = max(LEAST_FREE_BYTES, checkpoint_bytes * CHECKPOINTS * unfinished)
    found = f"{format_bytes(free_bytes)} free, the largest checkpoint takes {format_bytes(checkpoint_bytes)}"
    if free_bytes >= needed_bytes:
        return Check(name="disk", found=found)
    return Check(
        name="disk", found=found, advice=f"have {format_bytes(needed_bytes)} free for {unfinished} jobs to come"
    )


def check_leftovers(found: Sequence[Leftover], device: Device) -> Check:
    """Whether jobs have left processes behind, which outlive their attempts, and how much memory these hold."""
    if not found:
        return Check(name="processes", found="none left behind by jobs")
    pids = [one.process.pid for one in found]
    on_gpu = _on_gpu(device, pids)
    told = ", ".join(f"{one.process.pid} of job {one.job_id} ({_memory(one, on_gpu)})" for one in found)
    return Check(name="processes", found=f"left behind by jobs: {told}", advice=f"kill -9 {' '.join(map(str, pids))}")


def _on_gpu(device: Device, pids: Iterable[int]) -> Mapping[int, int]:
    """Bytes of a GPU that processes hold, as far as NVML knows."""
    if device.kind == "cpu":
        return {}
    try:
        return device.snapshot(dict.fromkeys(pids, 0)).used_by_worker
    except DeviceUnreadableError:
        return {}


def _memory(leftover: Leftover, on_gpu: Mapping[int, int]) -> str:
    resident = f"{format_bytes(resident_bytes(leftover.process.pid))} resident"
    held = on_gpu.get(leftover.process.pid)
    return f"{format_bytes(held)} of the GPU, {resident}" if held else resident


def check_calibration(home: Home, device: Device) -> Check:
    """Whether the constants of a GPU are measured, with the driver and the libraries as they are now."""
    if device.kind == "cpu":
        return Check(name="constants", found="the CPU's come with gpuq")
    try:
        known = calibrations.find(home.calibrations, calibrations.setup_of(device))
    except DeviceUnreadableError as error:
        return Check(name="constants", found=str(error), advice="see device")
    if known is None:
        return Check(name="constants", found="not measured with these versions", advice="gpuq doctor --calibrate")
    if known.error is not None:
        found = f"could not be measured, and so are the default ones: {known.error}"
        return Check(name="constants", found=found, advice="gpuq doctor --calibrate")
    context, workspaces = known.constants.context_bytes, known.constants.workspace_bytes
    found = f"context {format_bytes(context)}, workspaces {format_bytes(workspaces)}, measured {known.measured_at}"
    return Check(name="constants", found=found)


def calibrate(home: Home, device: Device) -> None:
    """Measure the constants of a GPU and keep them; a dispatcher takes them up when it starts.

    Raises GpuqError if they cannot be measured now; what was kept stays.
    """
    if device.kind == "cpu":
        return
    live = Store(home.store).live_attempts()
    snapshot = device.snapshot({one.pid: one.peak_bytes or 0 for one in live if one.pid is not None})
    if (reason := calibrations.no_room(snapshot, live)) is not None:
        raise GpuqError(f"the constants cannot be measured now: {reason}")
    process = CalibrationProcess(device, home.estimator_log)
    try:
        while (result := process.poll(timeout_s=1.0)) is None:
            pass
    finally:
        process.close()
    if isinstance(result, Unknown):
        raise GpuqError(f"the constants cannot be measured: {result.reason}; {home.estimator_log} may tell more")
    calibrations.conclude(device, home, result)


def show(checks: Iterable[Check]) -> None:
    """A line a check, and below it what to do."""
    from rich.text import Text

    from scheduler import render

    out = render.console()
    for check in checks:
        word, style = ("ok", "green") if check.is_right else ("wrong", "red")
        line = Text.assemble((f"{word:5}", style), f"  {check.name:9}  {check.found}")
        out.print(line)
        if check.advice is not None:
            out.print(f"       {'':9}  → {check.advice}")
