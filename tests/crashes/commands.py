"""What the zygote's children do: `gpuq` as people call it, with a stand-in worker and a dispatcher in a hurry."""

import gc
import sys
from pathlib import Path

import scheduler.cleaning
import scheduler.foreground
import scheduler.overview
import scheduler.pausing
import scheduler.requests
import scheduler.submission  # noqa: F401 — imported here, once for all children
from jobs.errors import GpuqError
from scheduler import cli, service, supervisor
from scheduler import rebuild as rebuilding
from scheduler.home import Home

_STAND_IN = (sys.executable, "-I", "-S", str(Path(__file__).with_name("stand_in_worker.py")))


def gpuq(*arguments: str) -> int:
    """Run a command; its exit code."""
    supervisor.Supervisor.__init__.__defaults__ = (_STAND_IN,)  # type: ignore[misc]
    service.TICK_S = 0.02  # type: ignore[misc]
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    gc.collect()  # closes connections to the store, as the end of a process does
    return code


def rebuild(home: str) -> int:
    """What `gpuq doctor --rebuild` does before it looks at the machine."""
    try:
        rebuilding.rebuild(Home(Path(home)))
    except GpuqError as error:
        print(error)
        return 1
    return 0
