"""What is in a device's memory at one instant, and whose it is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from builders import GiB, MiB
from stub_nvml import StubNvml, holding

from jobs import malloc
from jobs.errors import InputError
from scheduler import device as devices
from scheduler.device import CpuDevice, CudaDevice, Snapshot, choose_device, chosen_precision, has_gpu, visible_gpus
from scheduler.errors import DeviceUnreadableError

# -- the CPU ----------------------------------------------------------------------------------------------------

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine of 16 GiB with memory available, processes by pid as (resident, shared), and a container's limit."""

    def set_up(
        available: int, processes: dict[int, tuple[int, int]] | None = None, container: int | None = None
    ) -> None:
        def process(pid: int) -> SimpleNamespace:
            if pid not in (processes or {}):
                raise psutil.NoSuchProcess(pid)
            resident, shared = (processes or {})[pid]
            return SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=resident, shared=shared))

        memory = SimpleNamespace(total=16 * GiB, available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(psutil, "Process", process)
        limit = tmp_path / "memory.max"
        limit.write_text("max\n" if container is None else f"{container}\n")
        monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)

    return set_up


def test_what_is_neither_available_nor_ours_is_used_by_others(machine: Machine) -> None:
    machine(available=10 * GiB, processes={7: (3 * GiB, 1 * GiB)})
    snapshot = CpuDevice().snapshot({7: 0})
    assert snapshot.used_by_worker == {7: 3 * GiB}
    assert snapshot.used_by_gpuq_bytes == 3 * GiB
    assert snapshot.used_by_others_bytes == 4 * GiB  # 16 - 10 available - 2 that are ours alone


def test_shared_pages_of_several_workers_are_not_subtracted_from_others_twice(machine: Machine) -> None:
    machine(available=10 * GiB, processes={7: (2 * GiB, 1 * GiB), 8: (2 * GiB, 1 * GiB)})
    assert CpuDevice().snapshot({7: 0, 8: 0}).used_by_others_bytes == 4 * GiB


def test_the_headroom_is_a_twentieth_and_not_less_than_half_a_gib(machine: Machine) -> None:
    machine(available=16 * GiB)
    assert CpuDevice().snapshot({}).headroom_bytes == 16 * GiB // 20
    machine(available=4 * GiB, container=4 * GiB)
    assert CpuDevice().snapshot({}).headroom_bytes == 512 * MiB


def test_a_given_budget_is_the_whole_and_needs_no_headroom(machine: Machine) -> None:
    machine(available=10 * GiB)
    snapshot = CpuDevice(6 * GiB).snapshot({})
    assert (snapshot.total_bytes, snapshot.headroom_bytes, snapshot.budget_bytes) == (6 * GiB, 0, 6 * GiB)


def test_a_given_budget_cannot_exceed_the_machine(machine: Machine) -> None:
    machine(available=10 * GiB)
    assert CpuDevice(64 * GiB).snapshot({}).total_bytes == 16 * GiB


def test_a_given_budget_shrinks_when_others_leave_less(machine: Machine) -> None:
    machine(available=2 * GiB, processes={7: (1 * GiB, 0)})
    snapshot = CpuDevice(6 * GiB).snapshot({7: 0})
    assert (snapshot.used_by_others_bytes, snapshot.budget_bytes) == (3 * GiB, 3 * GiB)


def test_a_containers_limit_is_the_machines(machine: Machine) -> None:
    machine(available=10 * GiB, container=8 * GiB)
    assert CpuDevice().snapshot({}).total_bytes == 8 * GiB


def test_a_budget_is_never_negative(machine: Machine) -> None:
    machine(available=0)
    assert CpuDevice().snapshot({}).budget_bytes == 0


def test_a_worker_that_has_just_ended_holds_nothing(machine: Machine) -> None:
    machine(available=10 * GiB)
    assert CpuDevice().snapshot({7: 5 * GiB}).used_by_worker == {}


def test_this_machine_adds_up() -> None:
    snapshot = CpuDevice().snapshot({os.getpid(): 0})
    assert snapshot.used_by_worker[os.getpid()] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert 0 <= snapshot.budget_bytes < snapshot.total_bytes <= psutil.virtual_memory().total
    assert snapshot.used_by_others_bytes < snapshot.total_bytes
    assert snapshot.threads == len(os.sched_getaffinity(0))


def test_a_child_process_is_seen_with_its_memory() -> None:
    script = "held = bytearray(60 << 20); held[::4096] = bytes(len(held[::4096])); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    snapshot = CpuDevice().snapshot({child.pid: 0})
    child.communicate(b"\n")
    assert 60 * MiB <= snapshot.used_by_worker[child.pid] <= 120 * MiB


def test_a_cpu_job_sees_no_gpu_and_as_many_threads_as_it_was_given() -> None:
    environment = CpuDevice().environment(2)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("", "2")


def test_a_cpu_job_allocates_as_its_estimate_supposes() -> None:
    assert CpuDevice().environment(1).items() >= malloc.ENVIRONMENT.items()


# -- a GPU ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> StubNvml:
    stub = StubNvml()
    monkeypatch.setitem(sys.modules, "pynvml", stub)
    monkeypatch.setattr("scheduler.device.driver_installed", lambda: True)
    return stub


def test_what_our_workers_do_not_hold_is_used_by_others(nvml: StubNvml) -> None:
    nvml.processes = [holding(7, 12 * GiB), holding(99, 18 * GiB)]
    snapshot = CudaDevice().snapshot({7: 1 * GiB})
    assert (snapshot.used_by_gpuq_bytes, snapshot.used_by_others_bytes) == (12 * GiB, 18 * GiB)
    assert (snapshot.name, snapshot.kind, snapshot.total_bytes) == ("NVIDIA H200", "cuda", 80 * GiB)


def test_memory_of_our_workers_is_not_subtracted_from_the_budget(nvml: StubNvml) -> None:
    nvml.processes = [holding(7, 30 * GiB)]
    assert CudaDevice().snapshot({7: 0}).budget_bytes == 80 * GiB - 80 * GiB // 50


@pytest.mark.parametrize(
    "listed",
    [[], [holding(4242, 12 * GiB)], [holding(7, None)], None],
    ids=["no", "host's", "WSL2", "not supported"],
)
def test_a_workers_own_report_counts_where_nvml_does_not_know_it(
    nvml: StubNvml, listed: list[SimpleNamespace] | None
) -> None:
    nvml.processes = listed
    snapshot = CudaDevice().snapshot({7: 10 * GiB})
    assert (snapshot.used_by_worker, snapshot.used_by_others_bytes) == ({7: 10 * GiB}, 20 * GiB)


def test_a_report_larger_than_what_is_used_leaves_nothing_to_others(nvml: StubNvml) -> None:
    nvml.processes = [holding(7, 40 * GiB)]
    assert CudaDevice().snapshot({7: 0}).used_by_others_bytes == 0


@pytest.mark.usefixtures("nvml")
def test_cores_do_not_limit_jobs_on_a_gpu() -> None:
    assert CudaDevice().snapshot({}).threads is None


def test_a_driver_that_is_gone_makes_the_device_unreadable(nvml: StubNvml) -> None:
    nvml.error = "Driver Not Loaded"
    with pytest.raises(DeviceUnreadableError, match="GPU 0 cannot be read: Driver Not Loaded"):
        CudaDevice().snapshot({})


@pytest.mark.usefixtures("nvml")
def test_a_gpu_that_is_not_there_is_unreadable() -> None:
    with pytest.raises(DeviceUnreadableError, match="GPU 3 cannot be read: Invalid Argument"):
        CudaDevice(3).snapshot({})


@pytest.mark.usefixtures("nvml")
def test_a_gpu_has_a_driver_of_some_version() -> None:
    assert CudaDevice().driver_version() == "580.65.06"


def test_a_driver_that_is_gone_has_no_version(nvml: StubNvml) -> None:
    nvml.error = "Driver Not Loaded"
    with pytest.raises(DeviceUnreadableError, match="driver of GPU 0 cannot be read: Driver Not Loaded"):
        CudaDevice().driver_version()


def test_the_cpu_has_no_driver() -> None:
    assert CpuDevice().driver_version() is None


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_auto_precision_is_what_the_gpu_has(nvml: StubNvml, capability: tuple[int, int], precision: str) -> None:
    nvml.capability = capability
    assert CudaDevice().auto_precision() == precision


def test_auto_precision_of_an_unreadable_gpu_is_the_one_that_needs_more(nvml: StubNvml) -> None:
    nvml.error = "Driver Not Loaded"
    assert CudaDevice().auto_precision() == "fp32"


def test_a_worker_sees_its_gpu_alone_numbered_as_nvml_numbers_it() -> None:
    environment = CudaDevice(1).environment(4)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_cublas_keeps_its_workspaces_in_every_version_of_torch_as_they_are_traced() -> None:
    assert CudaDevice().environment(1)["TORCH_CUBLAS_WORKSPACE_CACHE"] == "1"


# -- which device -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "count", "found"), [(None, 1, True), (None, 0, False), ("no driver", 1, False)])
def test_a_gpu_is_there_if_nvml_answers_and_knows_one(
    nvml: StubNvml, error: str | None, count: int, found: bool
) -> None:
    nvml.error, nvml.count = error, count
    assert has_gpu() is found


@pytest.mark.usefixtures("nvml")
def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.device.driver_installed", lambda: False)
    assert has_gpu() is False


def test_auto_is_the_gpu_if_there_is_one_and_else_the_cpu(nvml: StubNvml) -> None:
    assert choose_device("auto").kind == "cuda"
    nvml.count = 0
    assert choose_device("auto").kind == "cpu"


@pytest.mark.parametrize(("wanted", "index"), [("cuda", "0"), ("cuda:0", "0"), ("cuda:3", "3")])
def test_a_gpu_is_chosen_by_its_index(wanted: str, index: str) -> None:
    assert choose_device(wanted).environment(1)["CUDA_VISIBLE_DEVICES"] == index


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda:first", "cuda:-1", "cuda:²", "cpu:0"])
def test_anything_else_is_refused(wanted: str) -> None:
    with pytest.raises(InputError, match="--device: expected auto, cpu, cuda or cuda:INDEX"):
        choose_device(wanted)


def test_a_gpu_takes_no_memory_budget() -> None:
    with pytest.raises(InputError, match="--memory: sets the budget of the CPU device"):
        choose_device("cuda", GiB)


def test_a_snapshots_budget_is_what_others_and_the_headroom_leave() -> None:
    snapshot = Snapshot(
        name="x", kind="cpu", total_bytes=10, used_by_gpuq_bytes=6, used_by_others_bytes=3, headroom_bytes=2
    )
    assert snapshot.budget_bytes == 5


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("", []), ("-1", []), ("2", ["2"]), ("2,0", ["2", "0"]), ("1,-1,0", ["1"]), ("GPU-8f2a, 1", ["GPU-8f2a", "1"])],
)
def test_cuda_visible_devices_decides_which_gpus_are_seen(
    monkeypatch: pytest.MonkeyPatch, listed: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == seen


def test_a_gpu_is_counted_among_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert CudaDevice(1).environment(1)["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(InputError, match="cuda:2 is not among CUDA_VISIBLE_DEVICES=3,1"):
        CudaDevice(2)


def test_a_gpu_hidden_by_cuda_visible_devices_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto").kind == "cpu"


def test_automatic_precision_is_full_on_the_cpu() -> None:
    assert chosen_precision("auto", CpuDevice()) == "fp32"


def test_a_precision_that_was_asked_for_is_taken() -> None:
    assert chosen_precision("bf16", CpuDevice()) == "bf16"
