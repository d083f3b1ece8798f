"""The resident memory of this process, and what a worker's has imported before it trains. Imports none of that."""

import importlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from jobs.spec import JobSpec
from models.external import imported_by

ALL_WORKER_MODULES = ("jobs.train", "augment.operations", "torchvision")  # of which a worker needs `worker_modules`

_RESIDENT, _DATA = 1, 5  # fields of /proc/self/statm (proc(5))


def resident_bytes() -> int:
    return _statm_bytes(_RESIDENT)


def peak_resident_bytes() -> int:
    """The most so far (VmHWM; proc(5)). getrusage's counts what this process's parent held when it was started."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def private_writable_bytes() -> int:
    """What a limit of RLIMIT_DATA counts (getrlimit(2))."""
    return _statm_bytes(_DATA)


def _statm_bytes(field: int) -> int:
    return int(Path("/proc/self/statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")


def worker_modules(spec: JobSpec) -> list[str]:
    """What a job's worker imports, as far as it takes memory; the estimator counts it, the worker begins with it."""
    modules = ["jobs.train"]
    if spec.data.augment != "none":
        modules.append("augment.operations")
    name = spec.model.name
    if name.startswith("torchvision:") or "torchvision" in imported_by(name):
        modules.append("torchvision")
    return modules


def import_costs(modules: Iterable[str]) -> dict[str, int]:
    """What importing each in turn adds to the resident memory of this process: nothing if it is imported already."""
    costs = {}
    for module in modules:
        before = resident_bytes()
        importlib.import_module(module)
        costs[module] = max(0, resident_bytes() - before)
    return costs
