"""Kills a process at a named place: where one function calls another. Nothing in the code under test knows of it.

The interpreter's own profiling hook (`sys.setprofile`) tells of every call and return. Processes that are started,
rather than forked, are armed by `sitecustomize` in this folder.
"""

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ARMED = "GPUQ_TEST_CRASH"  # a point as JSON
MARK = "GPUQ_TEST_CRASHED"  # the file that says it was reached, so that it is once

BEFORE, WITHIN, AFTER = "before", "within", "after"

GO_BETWEENS = ("/contextlib.py", "/jobs/room.py")  # they make calls that others ask for


@dataclass(frozen=True, order=True)
class Place:
    """A call in our code, such as `scheduler.supervisor:Supervisor.start` → `write_record`."""

    caller: str
    callee: str

    def __str__(self) -> str:
        return f"{self.caller} > {self.callee}"


@dataclass(frozen=True)
class CrashPoint:
    """Before or after a call; or within a transaction, when all is written and nothing committed."""

    place: Place
    when: str
    call: int = 1  # which of the calls that this process makes there

    def __str__(self) -> str:
        return f"{self.when} {self.place}" + (f" ({self.call})" if self.call > 1 else "")

    def environment(self, mark: Path) -> dict[str, str]:
        return {ARMED: json.dumps({**asdict(self.place), "when": self.when, "call": self.call}), MARK: str(mark)}


class Crash:
    """A profiling function that counts the calls at a point and ends its process at the right one."""

    def __init__(self, caller: str, callee: str, when: str, call: int) -> None:
        module, self._function = caller.split(":")
        self._file = f"/{module.replace('.', '/')}.py"
        self._callee = callee
        self._entering = when != AFTER
        self._left = call
        if callee == "_transaction":  # a generator: called for its beginning, and again for its end
            self._left = 2 * call - (when == BEFORE)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event.endswith("call") == self._entering and self._is_call(frame, event, arg):
            self._left -= 1
            if self._left == 0:
                die()

    def _is_call(self, frame: FrameType, event: str, arg: Any) -> bool:
        if event.startswith("c_"):
            return getattr(arg, "__name__", "") == self._callee and self._is_caller(frame)
        code = frame.f_code
        is_callee = code.co_name == self._callee or code.co_qualname == f"{self._callee}.__init__"
        return is_callee and self._is_caller(frame.f_back)

    def _is_caller(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code.co_filename.endswith(GO_BETWEENS):
            frame = frame.f_back
        if frame is None:
            return False
        code = frame.f_code
        return code.co_filename.endswith(self._file) and code.co_qualname.split(".<")[0] == self._function


def die() -> None:
    """By SIGKILL, unless this, or another process, has died here before."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.environ[MARK], os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Have this process die at the point that its environment names, if it names one."""
    if (point := os.environ.get(ARMED)) is not None:
        sys.setprofile(Crash(**json.loads(point)))
