"""Whether gpuq can work here, and what to do where it cannot."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders import GiB, MiB
from click.testing import CliRunner
from gpu import Gpu
from steps import Queue

from jobs.calibrate import Seen, Trouble
from jobs.errors import GpuqError
from jobs.run_dir import write_atomically
from jobs.trace_messages import Constants
from scheduler import doctor
from scheduler.calibration import conclude, find, setup_of
from scheduler.calibration_process import Unknown
from scheduler.cli import cli
from scheduler.device import CpuDevice
from scheduler.doctor import (
    calibrate,
    check_calibration,
    check_device,
    check_disk,
    check_folder,
    check_jobs,
    check_store,
    check_torch,
    examine,
    largest_checkpoint,
    see,
    show,
)
from scheduler.home import Home

MEASURED = Constants(context_bytes=500 * MiB, workspace_bytes=16 * MiB)


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


# -- checks ---------------------------------------------------------------------------------------------------------


def test_all_is_well_on_a_cpu(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "see", lambda _: Seen(name="the CPU", torch="2.15.0", cudnn=None))
    checks = examine(home, CpuDevice())
    names = "device torch constants state store jobs disk processes"
    assert " ".join(check.name for check in checks) == names
    assert [check.found for check in checks if not check.is_right] == []


def test_a_gpu_is_told_with_its_memory_and_driver(gpu: Gpu) -> None:
    assert check_device(gpu).found == "NVIDIA H200, 8.0 GiB, driver 580.65"


def test_a_gpu_that_cannot_be_read_is_wrong(gpu: Gpu) -> None:
    gpu.error = "GPU 0 cannot be read: Driver Not Loaded"
    check = check_device(gpu)
    assert (check.is_right, check.found) == (False, gpu.error)


def test_torch_answers_from_a_process_of_its_own() -> None:
    assert see(CpuDevice()) == Seen(name="the CPU", torch=torch.__version__, cudnn=None)


def test_a_torch_that_cannot_be_imported_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CALIBRATE", ("python3", "-c", "import os; os._exit(9)"))
    assert see(CpuDevice()) == Trouble(reason="a process that imports torch ends with code 9")


def test_torch_is_told_with_what_it_sees() -> None:
    check = check_torch(Seen(name="NVIDIA H200", torch="2.15.0", cudnn="92600"), "cuda")
    assert (check.is_right, check.found) == (True, "2.15.0, cuDNN 92600, sees NVIDIA H200")


@pytest.mark.parametrize(("kind", "advises_cpu"), [("cuda", True), ("cpu", False)])
def test_a_torch_that_does_not_see_the_device_is_wrong(kind: str, advises_cpu: bool) -> None:
    check = check_torch(Trouble(reason="sees no GPU"), kind)
    assert check.found == "sees no GPU"
    assert check.advice is not None
    assert ("--device cpu" in check.advice) is advises_cpu


def test_a_state_directory_that_others_may_enter_is_wrong(home: Home) -> None:
    home.path.chmod(0o750)
    check = check_folder(home.path)
    assert "mode 0750" in check.found
    assert check.advice == f"chmod 700 {home.path}"


def test_a_state_directory_of_another_user_is_wrong(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert "belongs to another user" in check_folder(home.path).found


def test_no_store_yet_is_fine_and_none_is_made(home: Home) -> None:
    check, jobs = check_store(home.store)
    assert (check.is_right, list(jobs), home.store.exists()) == (True, [], False)


def test_jobs_that_have_a_run_directory_are_to_be_in_the_store(queue: Queue) -> None:
    jobs = [queue.store.job(queue.submitted())]
    assert check_jobs([1], jobs).is_right
    unknown = check_jobs([1, 2, 3], jobs)
    assert unknown.found == "not in the store, though they have run directories: 2-3"
    assert unknown.advice == "gpuq doctor --rebuild puts them in"


def test_a_store_is_told_with_its_jobs(queue: Queue) -> None:
    queue.submitted()
    check, jobs = check_store(queue.store.path)
    assert (check.is_right, check.found, len(jobs)) == (True, "readable, 1 jobs", 1)


def _of_the_future(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _torn(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)


@pytest.mark.parametrize(("spoil", "words"), [(_of_the_future, "schema version 99"), (_torn, "file is not a database")])
def test_a_store_that_cannot_be_used_is_wrong(home: Home, spoil: Callable[[Path], None], words: str) -> None:
    spoil(home.store)
    check, _ = check_store(home.store)
    assert not check.is_right
    assert words in check.found


@pytest.mark.parametrize(
    ("free", "checkpoint", "unfinished", "is_right"),
    [
        (2 * GiB, 0, 5, True),
        (GiB - 1, 0, 0, False),
        (8 * GiB, GiB, 2, True),
        (8 * GiB - 1, GiB, 2, False),
        (2 * GiB, GiB, 0, True),
    ],
    ids=["none written", "nearly full", "just enough", "too little", "nothing to come"],
)
def test_a_disk_needs_room_for_the_checkpoints_of_unfinished_jobs(
    free: int, checkpoint: int, unfinished: int, is_right: bool
) -> None:
    assert check_disk(free, checkpoint, unfinished).is_right is is_right


def test_the_largest_checkpoint_is_any_jobs_last_or_best(home: Home, queue: Queue) -> None:
    first, second = queue.submitted(), queue.submitted()
    assert largest_checkpoint(home, queue.store.jobs()) == 0
    for job_id, name, size in ((first, "last_checkpoint", 10), (first, "best_checkpoint", 30), (second, "log", 50)):
        run = home.run_dir(job_id)
        run.last_checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(getattr(run, name), bytes(size))
    assert largest_checkpoint(home, queue.store.jobs()) == 30


def test_constants_that_are_not_measured_are_wrong(home: Home, gpu: Gpu) -> None:
    check = check_calibration(home, gpu)
    assert (check.found, check.advice) == ("not measured with these versions", "gpuq doctor --calibrate")


def test_measured_constants_are_told(home: Home, gpu: Gpu) -> None:
    conclude(gpu, home, MEASURED)
    check = check_calibration(home, gpu)
    assert check.is_right
    assert check.found.startswith("context 500 MiB, workspaces 16.0 MiB, measured 20")


def test_constants_that_could_not_be_measured_are_wrong(home: Home, gpu: Gpu) -> None:
    conclude(gpu, home, Unknown("the GPU is on fire"))
    check = check_calibration(home, gpu)
    assert not check.is_right
    assert "the GPU is on fire" in check.found


def test_constants_of_a_gpu_that_cannot_be_read_are_wrong(home: Home, gpu: Gpu) -> None:
    gpu.error = "gone"
    assert not check_calibration(home, gpu).is_right


def test_a_line_tells_what_to_do(home: Home, gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    show([check_device(gpu), check_calibration(home, gpu)])
    assert [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()] == [
        ["ok", "device", "NVIDIA H200, 8.0 GiB, driver 580.65"],
        ["wrong", "constants", "not measured with these versions"],
        ["→", "gpuq", "doctor --calibrate"],
    ]


@pytest.mark.parametrize(
    ("said", "code"), [(Seen(name="the CPU", torch="2.15.0", cudnn=None), 0), (Trouble(reason="no"), 1)]
)
def test_the_exit_code_tells_whether_all_is_right(
    said: Seen | Trouble, code: int, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUQ_HOME", str(home.path))
    monkeypatch.setattr(doctor, "see", lambda _: said)
    done = CliRunner().invoke(cli, ["doctor", "--json", "--calibrate", "--device", "cpu"])
    assert done.exit_code == code
    told = json.loads(done.stdout)
    assert (told["ok"], len(told["checks"])) == (code == 0, 8)


# -- --calibrate ----------------------------------------------------------------------------------------------------


class Measurement:
    """A measurement that ends at the second look with what a test says."""

    result: Constants | Unknown = MEASURED

    def __init__(self, *_: object) -> None:
        self.looks = 0

    def poll(self, timeout_s: float) -> Constants | Unknown | None:
        assert timeout_s > 0
        self.looks += 1
        return self.result if self.looks > 1 else None

    def close(self) -> int:
        return 0


@pytest.fixture
def measurement(monkeypatch: pytest.MonkeyPatch) -> type[Measurement]:
    monkeypatch.setattr(Measurement, "result", MEASURED)
    monkeypatch.setattr(doctor, "CalibrationProcess", Measurement)
    return Measurement


@pytest.mark.usefixtures("measurement")
def test_what_is_measured_is_kept(home: Home, gpu: Gpu) -> None:
    calibrate(home, gpu)
    known = find(home.calibrations, setup_of(gpu))
    assert known is not None
    assert (known.constants, known.error) == (MEASURED, None)


def test_a_measurement_that_fails_leaves_what_was_known(
    home: Home, gpu: Gpu, measurement: type[Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(home, gpu)
    monkeypatch.setattr(measurement, "result", Unknown("the GPU is on fire"))
    with pytest.raises(GpuqError, match="the constants cannot be measured: the GPU is on fire"):
        calibrate(home, gpu)
    assert check_calibration(home, gpu).is_right


@pytest.mark.usefixtures("measurement")
def test_a_full_device_is_not_disturbed(home: Home) -> None:
    with pytest.raises(GpuqError, match=r"cannot be measured now: needs 1\.0 GiB"):
        calibrate(home, Gpu(8 * GiB))


def test_the_cpu_has_nothing_to_measure(home: Home) -> None:
    calibrate(home, CpuDevice())
    assert not home.calibrations.exists()
