"""The constants of a GPU: kept for what they hold for, measured where they are not known."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from bench import Bench
from builders import GiB, MiB, attempt
from gpu import Gpu
from msgspec.structs import replace

from jobs.trace_messages import Constants
from scheduler import render
from scheduler.calibration import Calibration, Calibrator, Setup, conclude, find, keep, no_room, setup_of, take_up
from scheduler.calibration_process import CalibrationProcess, Unknown
from scheduler.device import CpuDevice, Device
from scheduler.device_view import read_view
from scheduler.dispatcher import Dispatcher
from scheduler.errors import DeviceUnreadableError
from scheduler.home import Home
from scheduler.status import DeviceReport

MEASURED = Constants(context_bytes=500 * MiB, workspace_bytes=16 * MiB)
SETUP = Setup(device="NVIDIA H200", driver="580.65", torch="2.15.0", cudnn="9.26", python="3.11.9")


def kept(setup: Setup, constants: Constants = MEASURED) -> Calibration:
    return Calibration(setup=setup, constants=constants, measured_at="2026-11-21T12:00:00Z")


class Answer:
    """A measurement that a test decides."""

    def __init__(self) -> None:
        self.result: Constants | Unknown | None = None
        self.started = 0
        self.closed = False

    def start(self, _device: Device, _errors: Path) -> CalibrationProcess:
        self.started += 1
        return self  # type: ignore[return-value]

    def poll(self) -> Constants | Unknown | None:
        return self.result

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def answer() -> Answer:
    return Answer()


# -- what constants hold for ----------------------------------------------------------------------------------------


def test_a_setup_is_the_device_its_driver_and_the_libraries() -> None:
    setup = setup_of(Gpu())
    assert (setup.device, setup.driver, setup.torch) == ("NVIDIA H200", "580.65", version("torch"))
    assert setup.python == ".".join(map(str, sys.version_info[:3]))


def test_cudnn_is_the_distribution_that_torch_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.calibration.requires", lambda _: ["numpy", "nvidia-cudnn-cu13==9.26.0; x86_64"])
    monkeypatch.setattr("scheduler.calibration.version", lambda name: f"version of {name}")
    assert setup_of(Gpu()).cudnn == "version of nvidia-cudnn-cu13"


@pytest.mark.parametrize("required", [None, ["numpy>=1"], ["nvidia-cudnn-cu99==1"]], ids=["none", "others", "not here"])
def test_a_cudnn_that_is_no_distribution_is_none(monkeypatch: pytest.MonkeyPatch, required: list[str] | None) -> None:
    monkeypatch.setattr("scheduler.calibration.requires", lambda _: required)
    assert setup_of(Gpu()).cudnn is None


# -- what is kept ---------------------------------------------------------------------------------------------------


def test_what_is_kept_is_found_again(home: Home) -> None:
    keep(home.calibrations, kept(SETUP))
    assert find(home.calibrations, SETUP) == kept(SETUP)


@pytest.mark.parametrize("field", Setup.__struct_fields__)
def test_it_is_not_found_where_anything_is_another(home: Home, field: str) -> None:
    keep(home.calibrations, kept(SETUP))
    assert find(home.calibrations, replace(SETUP, **{field: "another"})) is None


def test_setups_are_kept_beside_each_other(home: Home) -> None:
    other = replace(SETUP, driver="590.1")
    keep(home.calibrations, kept(SETUP))
    keep(home.calibrations, kept(other))
    assert find(home.calibrations, SETUP) is not None
    assert find(home.calibrations, other) is not None


def test_the_last_that_was_measured_of_a_setup_counts(home: Home) -> None:
    keep(home.calibrations, kept(SETUP))
    keep(home.calibrations, kept(SETUP, Constants()))
    assert find(home.calibrations, SETUP) == kept(SETUP, Constants())


def test_a_file_that_cannot_be_read_holds_nothing_and_is_replaced(home: Home) -> None:
    home.calibrations.write_text("{")
    assert find(home.calibrations, SETUP) is None
    keep(home.calibrations, kept(SETUP))
    assert find(home.calibrations, SETUP) is not None


def test_a_device_takes_up_what_was_kept_for_it(home: Home) -> None:
    gpu = Gpu()
    keep(home.calibrations, kept(setup_of(gpu)))
    assert take_up(gpu, home) is not None
    assert gpu.constants == MEASURED


def test_a_device_of_which_nothing_was_kept_keeps_the_default_constants(home: Home) -> None:
    gpu = Gpu()
    assert take_up(gpu, home) is None
    assert gpu.constants == Constants()


def test_the_cpu_takes_up_nothing(home: Home) -> None:
    cpu = CpuDevice()
    keep(home.calibrations, kept(setup_of(cpu)))
    assert take_up(cpu, home) is None
    assert cpu.constants == Constants(context_bytes=0, workspace_bytes=0)


def test_what_was_measured_is_the_devices_now_and_later(home: Home) -> None:
    gpu = Gpu()
    assert conclude(gpu, home, MEASURED).error is None
    later = Gpu()
    take_up(later, home)
    assert gpu.constants == later.constants == MEASURED


# -- room for measuring ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "reserved", "fits"),
    [
        (0, 0, True),
        (0, 6.75, True),
        (0, 6.76, False),
        (6.75, 0, True),
        (6.76, 0, False),
        (4, 2.8, False),
        (8, 0, False),
    ],
)
def test_measuring_needs_a_gibibyte_that_nobody_has_or_may_take(others: float, reserved: float, fits: bool) -> None:
    """The GPU has 8 GiB, and keeps a quarter of one as headroom."""
    live = [attempt(reservation_bytes=int(reserved * GiB))] if reserved else []
    assert (no_room(Gpu(int(others * GiB)).snapshot({}), live) is None) is fits


def test_an_attempt_that_holds_more_than_its_reservation_counts_by_what_it_holds() -> None:
    snapshot = Gpu(7 * GiB, listed_bytes=7 * GiB).snapshot({43: 0})
    reason = no_room(snapshot, [attempt(pid=43, reservation_bytes=GiB)])
    assert reason == "needs 1.0 GiB of the device unreserved, there is 768 MiB"


# -- when it is due -------------------------------------------------------------------------------------------------


def asked(calibrator: Calibrator, device: Device) -> bool:
    """As a tick does."""
    return calibrator.is_measuring(device.snapshot({}), [])


def test_on_the_cpu_nothing_is_measured(home: Home, answer: Answer) -> None:
    cpu = CpuDevice()
    assert asked(Calibrator(cpu, home, answer.start), cpu) is False
    assert answer.started == 0


def test_known_constants_are_taken_up_without_measuring(home: Home, answer: Answer) -> None:
    gpu = Gpu()
    keep(home.calibrations, kept(setup_of(gpu)))
    calibrator = Calibrator(gpu, home, answer.start)
    assert asked(calibrator, gpu) is False
    assert (answer.started, gpu.constants, calibrator.warning) == (0, MEASURED, None)


def test_unknown_ones_are_measured_once_while_jobs_wait(home: Home, answer: Answer) -> None:
    gpu = Gpu()
    calibrator = Calibrator(gpu, home, answer.start)
    assert [asked(calibrator, gpu) for _ in range(3)] == [True, True, True]
    answer.result = MEASURED
    assert [asked(calibrator, gpu) for _ in range(2)] == [False, False]
    assert (answer.started, gpu.constants, calibrator.warning) == (1, MEASURED, None)


def test_constants_of_another_driver_are_measured_anew(home: Home, answer: Answer) -> None:
    gpu = Gpu()
    keep(home.calibrations, kept(setup_of(gpu)))
    gpu.driver = "590.1"
    assert asked(Calibrator(gpu, home, answer.start), gpu) is True


def failed(home: Home, answer: Answer) -> Calibrator:
    gpu = Gpu()
    answer.result = Unknown("the GPU is on fire")
    calibrator = Calibrator(gpu, home, answer.start)
    assert [asked(calibrator, gpu) for _ in range(2)] == [True, False]
    assert gpu.constants == Constants()
    return calibrator


def test_where_measuring_fails_jobs_go_on_with_the_default_ones_and_a_warning(
    home: Home, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    warning = failed(home, answer).warning
    assert warning is not None
    assert "(the GPU is on fire); `gpuq doctor --calibrate` does it" in warning
    assert warning in caplog.text


def test_the_next_dispatcher_does_not_try_again_but_warns(home: Home, answer: Answer) -> None:
    failed(home, answer)
    gpu, again = Gpu(), Answer()
    calibrator = Calibrator(gpu, home, again.start)
    assert asked(calibrator, gpu) is False
    assert again.started == 0
    assert "on fire" in (calibrator.warning or "")


def test_without_room_nothing_is_measured_and_the_next_dispatcher_tries(home: Home, answer: Answer) -> None:
    full, free = Gpu(8 * GiB), Gpu()
    calibrator = Calibrator(full, home, answer.start)
    assert asked(calibrator, full) is False
    assert "needs 1.0 GiB" in (calibrator.warning or "")
    assert asked(Calibrator(free, home, answer.start), free) is True


def test_a_device_that_cannot_be_read_is_asked_again(home: Home, answer: Answer) -> None:
    gpu = Gpu()
    snapshot = gpu.snapshot({})
    calibrator = Calibrator(gpu, home, answer.start)
    gpu.error = "gone"
    with pytest.raises(DeviceUnreadableError):
        calibrator.is_measuring(snapshot, [])
    gpu.error = None
    assert asked(calibrator, gpu) is True


def test_closing_ends_a_measurement(home: Home, answer: Answer) -> None:
    gpu = Gpu()
    calibrator = Calibrator(gpu, home, answer.start)
    asked(calibrator, gpu)
    calibrator.close()
    assert answer.closed


# -- in the dispatcher ----------------------------------------------------------------------------------------------


@pytest.fixture
def dispatcher(bench: Bench, answer: Answer) -> Dispatcher:
    """On a GPU whose constants are not known."""
    gpu = Gpu()
    return Dispatcher(
        bench.home,
        bench.store,
        gpu,
        supervisor=bench.engine,  # type: ignore[arg-type]
        tracer=bench.estimator,  # type: ignore[arg-type]
        calibrator=Calibrator(gpu, bench.home, answer.start),
    )


def test_jobs_are_neither_estimated_nor_placed_before(bench: Bench, dispatcher: Dispatcher) -> None:
    traced, declared = bench.submit(memory=None), bench.submit()
    dispatcher.tick()
    assert (bench.estimator.pending, bench.starting()) == (frozenset(), [])
    reasons = {bench.job(job_id).reason for job_id in (traced, declared)}
    assert reasons == {"waiting until the constants of the device are measured"}


def test_they_are_with_the_measured_constants_after(bench: Bench, dispatcher: Dispatcher, answer: Answer) -> None:
    traced, declared = bench.submit(memory=None), bench.submit()
    dispatcher.tick()
    answer.result = MEASURED
    dispatcher.tick()
    assert bench.estimator.pending == {traced}
    assert bench.launch(declared).context_bytes == MEASURED.context_bytes


def test_status_shows_the_warning(bench: Bench, dispatcher: Dispatcher, answer: Answer) -> None:
    answer.result = Unknown("the GPU is on fire")
    for _ in range(3):
        dispatcher.tick()
    view = read_view(bench.home.device_view)
    assert view is not None
    assert "on fire" in (view.warning or "")
    line = render.device_line(
        DeviceReport(
            name="NVIDIA H200",
            kind="cuda",
            total_bytes=GiB,
            used_by_gpuq_bytes=0,
            used_by_others_bytes=0,
            headroom_bytes=0,
            budget_bytes=GiB,
            reserved_bytes=0,
            warning=view.warning,
        )
    )
    assert view.warning in line.plain


def test_leaving_ends_a_measurement(bench: Bench, dispatcher: Dispatcher, answer: Answer) -> None:
    bench.submit()
    dispatcher.tick()
    dispatcher.leave()
    assert answer.closed
