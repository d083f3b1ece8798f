"""The process that shows what a GPU's memory holds besides tensors (`jobs.calibrate`), and what is read off it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jobs.calibrate import Held, Message, Trouble
from jobs.nvml import PLAUSIBLE_CONTEXTS
from jobs.run_dir import open_private
from jobs.trace_messages import Constants
from jobs.units import format_bytes
from scheduler.device import Device, Snapshot
from scheduler.errors import DeviceUnreadableError

MiB = 1 << 20

CALIBRATE = (sys.executable, "-P", "-m", "jobs.calibrate")
LIMIT_S = 180.0  # it takes some seconds, most of them to import torch; from a cold disk that can be a minute
STILL_BYTES = 16 * MiB  # by so much the rest of a device may change while ours is told from it
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Unknown:
    """Constants that could not be measured, and why, in one line."""

    reason: str


def constants(held: Held, pid: int, before: Snapshot, during: Snapshot, after: Snapshot) -> Constants | Unknown:
    """The constants by what a process `held` of the allocator's, and the device before, while and after it did.

    Where NVML does not tell the bytes of the process (in containers, under WSL2) they are what the device had more in
    use, provided that the rest of it stayed as it was.
    """
    process_bytes = during.used_by_worker.get(pid, 0)
    if process_bytes < held.reserved_bytes:
        if abs(_used(after) - _used(before)) > STILL_BYTES:
            return Unknown("what others use of the device changed meanwhile")
        process_bytes = _used(during) - _used(before)
    context_bytes = process_bytes - held.reserved_bytes
    if context_bytes not in PLAUSIBLE_CONTEXTS:
        return Unknown(f"a context of {format_bytes(context_bytes)} cannot be")
    return Constants(context_bytes=context_bytes, workspace_bytes=held.workspace_bytes)


def _used(snapshot: Snapshot) -> int:
    return snapshot.used_by_gpuq_bytes + snapshot.used_by_others_bytes


class CalibrationProcess:
    """One measurement, without blocking; ended when it takes too long."""

    def __init__(
        self,
        device: Device,
        errors: Path,
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] = CALIBRATE,
    ) -> None:
        """What the process prints is appended to the file `errors`. Raises DeviceUnreadableError."""
        self._device = device
        self._clock = clock
        self._until = clock() + LIMIT_S
        self._before = device.snapshot({})
        with open_private(errors, "ab") as file:
            self._process = subprocess.Popen(
                [*command, device.torch_device, device.auto_precision()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **device.environment(1)},
                start_new_session=True,
            )
        self._said = b""

    def poll(self, timeout_s: float = 0.0) -> Constants | Unknown | None:
        """What came of it, once that is known; waits at most `timeout_s` for news. Not to be asked again after."""
        ended = self._listen(timeout_s)
        try:
            messages = [msgspec.json.decode(line, type=Message) for line in self._said.split(b"\n")[:-1]]
        except msgspec.DecodeError:
            return self._failed("the process that measures wrote something that is no message")
        match messages:
            case [*_, Trouble(reason=reason)]:
                return self._failed(reason)
            case [*_, Held() as held]:
                return self._read_device(held)
        if ended:
            return self._failed(f"the process that measures ended {_how(self._exit_code())}")
        if self._clock() > self._until:
            return self._failed(f"measuring took more than {LIMIT_S:g} s")
        return None

    def close(self) -> int:
        """End the process if it has not ended; its exit code, or minus the signal that ended it."""
        if self._process.returncode is None:  # not reaped, so the group's id is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return self._process.wait()

    def _exit_code(self) -> int:
        """Of a process that says nothing more: it is about to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        return self.close()

    def _listen(self, timeout_s: float) -> bool:
        """Take in what it says; whether it can say nothing more."""
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], timeout_s)[0]:
            text = os.read(self._process.stdout.fileno(), _READ_BYTES)
            if not text:
                return True
            self._said += text
            timeout_s = 0.0
        return False

    def _read_device(self, held: Held) -> Constants | Unknown:
        """The device is read while the process holds its memory, and once more when it has ended."""
        pid = self._process.pid
        try:
            during = self._device.snapshot({pid: 0})
            self.close()
            return constants(held, pid, self._before, during, self._device.snapshot({}))
        except DeviceUnreadableError as error:
            return self._failed(str(error))

    def _failed(self, reason: str) -> Unknown:
        self.close()
        return Unknown(reason)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
