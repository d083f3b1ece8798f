"""The constants of a GPU: what a process takes there besides its tensors, measured once and kept.

They hold for a device with its driver and the libraries. With others of these they are measured anew: before the
first job (`Calibrator`, the dispatcher's), or when a person asks for it (`gpuq doctor --calibrate`).
"""

import contextlib
import logging
import platform
import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import msgspec
from msgspec import Struct

from jobs.run_dir import write_record
from jobs.trace_messages import Constants
from jobs.units import format_bytes
from scheduler.calibration_process import CalibrationProcess, Unknown
from scheduler.clock import utc_now
from scheduler.device import Device, Snapshot
from scheduler.home import Home
from scheduler.records import Attempt

LEAST_UNRESERVED_BYTES = 1 << 30  # of a device on which measuring disturbs nobody

log = logging.getLogger("gpuq")


class Setup(Struct, frozen=True, kw_only=True):
    """What constants hold for."""

    device: str
    driver: str | None
    torch: str
    cudnn: str | None  # None: torch has it built in, or has none
    python: str


class Calibration(Struct, frozen=True, kw_only=True):
    """The constants of a setup; the default ones with the error, if measuring them failed."""

    setup: Setup
    constants: Constants
    measured_at: str
    error: str | None = None


class Calibrations(Struct, frozen=True, kw_only=True):
    """What is in the file: one calibration a setup."""

    calibrations: tuple[Calibration, ...] = ()


def setup_of(device: Device) -> Setup:
    """The device, its driver, and the libraries that workers will import there; torch is not imported to tell.

    Raises DeviceUnreadableError.
    """
    return Setup(
        device=device.snapshot({}).name,
        driver=device.driver_version(),
        torch=version("torch"),
        cudnn=_cudnn_version(),
        python=platform.python_version(),
    )


def _cudnn_version() -> str | None:
    """Of the distribution that torch's requires."""
    names = (re.match(r"nvidia-cudnn[\w-]*", requirement) for requirement in requires("torch") or ())
    name = next((found[0] for found in names if found is not None), None)
    with contextlib.suppress(PackageNotFoundError):
        return None if name is None else version(name)
    return None


# -- what is kept ---------------------------------------------------------------------------------------------------


def find(path: Path, setup: Setup) -> Calibration | None:
    """What was kept for a setup, if anything was."""
    return next((known for known in _read(path) if known.setup == setup), None)


def keep(path: Path, calibration: Calibration) -> None:
    """Keep it instead of what was known of its setup."""
    others = (known for known in _read(path) if known.setup != calibration.setup)
    write_record(path, Calibrations(calibrations=(*others, calibration)))


def _read(path: Path) -> tuple[Calibration, ...]:
    """None are known from a file that cannot be read: all of them can be measured again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibrations).calibrations
    except (OSError, msgspec.DecodeError):
        return ()


def take_up(device: Device, home: Home) -> Calibration | None:
    """Give a device the constants that were kept for it, if any were. Raises DeviceUnreadableError."""
    if device.kind == "cpu":
        return None
    known = find(home.calibrations, setup_of(device))
    if known is not None:
        device.constants = known.constants
    return known


def conclude(device: Device, home: Home, result: Constants | Unknown) -> Calibration:
    """Keep what came of measuring, and give the device its constants. Raises DeviceUnreadableError."""
    calibration = Calibration(
        setup=setup_of(device),
        constants=Constants() if isinstance(result, Unknown) else result,
        measured_at=utc_now(),
        error=result.reason if isinstance(result, Unknown) else None,
    )
    keep(home.calibrations, calibration)
    device.constants = calibration.constants
    return calibration


# -- when it is due -------------------------------------------------------------------------------------------------


def no_room(snapshot: Snapshot, live: Iterable[Attempt]) -> str | None:
    """Why nothing can be measured beside these attempts; None if something can."""
    held = (max(one.reservation_bytes, snapshot.used_by_worker.get(one.pid or 0, 0)) for one in live)
    unreserved = max(0, snapshot.budget_bytes - sum(held))
    if unreserved >= LEAST_UNRESERVED_BYTES:
        return None
    return f"needs {format_bytes(LEAST_UNRESERVED_BYTES)} of the device unreserved, there is {format_bytes(unreserved)}"


class Calibrator:
    """Sees to it that the constants of a dispatcher's device are known before its first job.

    Where measuring fails the default ones do, and it is not tried again by itself.
    """

    def __init__(
        self,
        device: Device,
        home: Home,
        start: Callable[[Device, Path], CalibrationProcess] = CalibrationProcess,
    ) -> None:
        self.warning: str | None = None  # why the constants are not this device's own
        self._device = device
        self._home = home
        self._start = start
        self._process: CalibrationProcess | None = None
        self._done = device.kind == "cpu"

    def is_measuring(self, snapshot: Snapshot, live: Iterable[Attempt]) -> bool:
        """Whether jobs have to wait. To be asked each tick. Raises DeviceUnreadableError."""
        if self._done:
            return False
        if self._process is None:
            self._begin(snapshot, live)
        elif (result := self._process.poll()) is not None:
            self._process = None
            self._know(conclude(self._device, self._home, result))
        return not self._done

    def close(self) -> None:
        """End the measurement, if one goes on."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _begin(self, snapshot: Snapshot, live: Iterable[Attempt]) -> None:
        known = take_up(self._device, self._home)
        if known is not None:
            self._know(known)
        elif (reason := no_room(snapshot, live)) is not None:
            self._default(reason)
        else:
            log.info("measuring the constants of %s", snapshot.name)
            self._process = self._start(self._device, self._home.estimator_log)

    def _know(self, calibration: Calibration) -> None:
        self._done = True
        if calibration.error is not None:
            self._default(calibration.error)

    def _default(self, reason: str) -> None:
        self._done = True
        self.warning = f"the constants of this GPU are not measured ({reason}); `gpuq doctor --calibrate` does it"
        log.warning("%s", self.warning)
