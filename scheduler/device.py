"""The device jobs run on, and what is in its memory at one instant: by NVML (`jobs.nvml`) or psutil."""

import ctypes
import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from jobs import malloc, nvml
from jobs.errors import InputError
from jobs.trace_messages import Constants
from scheduler.errors import DeviceUnreadableError

MiB = 1 << 20
GiB = 1 << 30

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Snapshot(Struct, frozen=True, kw_only=True):
    """A device's bytes at one instant."""

    name: str
    kind: str  # "cpu" or "cuda"
    total_bytes: int
    used_by_gpuq_bytes: int
    used_by_others_bytes: int
    headroom_bytes: int
    threads: int | None = None  # cores to share out; None where they are not what limits jobs
    used_by_worker: dict[int, int] = {}  # by pid

    @property
    def budget_bytes(self) -> int:
        return max(0, self.total_bytes - self.used_by_others_bytes - self.headroom_bytes)

    @property
    def capacity_bytes(self) -> int:
        """The budget if nobody else used the device."""
        return max(0, self.total_bytes - self.headroom_bytes)


class Device(Protocol):
    """What the dispatcher needs of a device."""

    kind: str
    torch_device: str
    constants: Constants  # measured ones once `scheduler.calibration` knows them

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        """The device now; `workers` are our processes by pid, with the bytes each has reported of itself.

        Raises DeviceUnreadableError.
        """
        ...

    def driver_version(self) -> str | None:
        """None where there is no driver. Raises DeviceUnreadableError."""
        ...

    def auto_precision(self) -> str:
        """What `precision = "auto"` means here: "bf16" or "fp32"."""
        ...

    def environment(self, threads: int) -> dict[str, str]:
        """What a worker's environment needs to run here, and only here."""
        ...


class CpuDevice:
    """Resident memory within a budget, and as many threads as there are cores."""

    kind = "cpu"
    torch_device = "cpu"

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.constants = Constants(context_bytes=0, workspace_bytes=0)
        self._memory_bytes = memory_bytes

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        import psutil

        memory = psutil.virtual_memory()
        physical = min(memory.total, _cgroup_limit())
        total = min(self._memory_bytes or physical, physical)
        resident, private = {}, 0
        for pid in workers:
            try:
                held = psutil.Process(pid).memory_info()
            except psutil.Error:
                continue
            resident[pid] = held.rss
            private += held.rss - held.shared  # shared pages, such as torch's code, count as available already
        others = max(0, total - min(memory.available, physical) - private)
        return Snapshot(
            name=f"cpu ({os.cpu_count()} cores)",
            kind=self.kind,
            total_bytes=total,
            used_by_gpuq_bytes=sum(resident.values()),
            used_by_others_bytes=others,
            headroom_bytes=0 if self._memory_bytes else max(512 * MiB, total // 20),
            threads=len(os.sched_getaffinity(0)),
            used_by_worker=resident,
        )

    def driver_version(self) -> str | None:
        return None

    def auto_precision(self) -> str:
        return "fp32"

    def environment(self, threads: int) -> dict[str, str]:
        """No GPU to be seen, thread pools of the right size from the first import on, and malloc held to rules."""
        return {"CUDA_VISIBLE_DEVICES": "", **_thread_pools(threads), **malloc.ENVIRONMENT}


class CudaDevice:
    """One NVIDIA GPU, read through NVML, which opens no context on it.

    `index` counts as NVML does, or, where CUDA_VISIBLE_DEVICES is set, among the GPUs that it lets us see.
    """

    kind = "cuda"
    torch_device = "cuda:0"  # a worker sees this GPU alone

    def __init__(self, index: int = 0) -> None:
        """Raises InputError if there is no such GPU to be seen."""
        self.constants = Constants()
        visible = visible_gpus()
        if visible is not None and index >= len(visible):
            raise InputError([f"--device: cuda:{index} is not among CUDA_VISIBLE_DEVICES={','.join(visible)}"])
        self._gpu = str(index) if visible is None else visible[index]

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        """Where NVML does not tell a worker's bytes, its own report has to do."""
        import pynvml

        try:
            handle = nvml.handle(self._gpu)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
        except pynvml.NVMLError as error:
            raise DeviceUnreadableError(f"GPU {self._gpu} cannot be read: {error}") from error
        listed = nvml.bytes_by_process(handle)
        held = {pid: listed.get(pid) or reported for pid, reported in workers.items()}
        total, used = int(memory.total), int(memory.total) - int(memory.free)
        return Snapshot(
            name=name,
            kind=self.kind,
            total_bytes=total,
            used_by_gpuq_bytes=sum(held.values()),
            used_by_others_bytes=max(0, used - sum(held.values())),
            headroom_bytes=max(256 * MiB, total // 50),
            used_by_worker=held,
        )

    def driver_version(self) -> str | None:
        import pynvml

        try:
            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            raise DeviceUnreadableError(f"the driver of GPU {self._gpu} cannot be read: {error}") from error

    def auto_precision(self) -> str:
        """bf16 from compute capability 8.0 on (CUDA C++ Programming Guide, "Compute Capabilities")."""
        import pynvml

        try:
            major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(nvml.handle(self._gpu))
        except pynvml.NVMLError:
            return "fp32"  # the larger of the two; nothing starts until the device can be read
        return "bf16" if major >= 8 else "fp32"

    def environment(self, threads: int) -> dict[str, str]:
        """This GPU alone, numbered as NVML numbers it; and cuBLAS keeps its workspaces, as is measured and traced.

        In older versions of torch it always does; in newer ones, such as 2.15, only if told to
        (`torch.backends.cuda.blas_workspace_size`).
        """
        visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": self._gpu}
        return {**visible, **_thread_pools(threads), "TORCH_CUBLAS_WORKSPACE_CACHE": "1"}


def _thread_pools(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def chosen_precision(wanted: str, device: Device) -> str:
    """A job's `precision` on this device: what its trace assumes and its worker is told."""
    return device.auto_precision() if wanted == "auto" else wanted


def choose_device(wanted: str = "auto", memory_bytes: int | None = None) -> Device:
    """`cpu`, `cuda`, `cuda:1`, or `auto`: the first GPU if there is one, else the CPU.

    `memory_bytes` is the CPU's budget. Raises InputError for anything else.
    """
    if wanted == "auto":
        wanted = "cuda" if has_gpu() else "cpu"
    if wanted == "cpu":
        return CpuDevice(memory_bytes)
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise InputError([f"--device: expected auto, cpu, cuda or cuda:INDEX, got {wanted!r}"])
    if memory_bytes is not None:
        raise InputError(["--memory: sets the budget of the CPU device; a GPU has its own"])
    return CudaDevice(int(index or 0))


def visible_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES lists, indices or UUIDs; None if it is not set, and so hides nothing.

    As CUDA reads it, the list ends before the first index that cannot be, such as -1 (CUDA C++ Programming Guide,
    "CUDA Environment Variables").
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    entries = [entry.strip() for entry in listed.split(",")]
    return list(takewhile(lambda entry: entry.isdecimal() or entry.startswith(("GPU-", "MIG-")), entries))


def driver_installed() -> bool:
    """Whether there is NVML to ask. Its absence shows at once; importing pynvml to find out takes up to 75 ms."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def has_gpu() -> bool:
    """Whether NVML answers and knows a GPU, and we are to see one."""
    if visible_gpus() == [] or not driver_installed():
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    except pynvml.NVMLError:
        return False


def unreadable(device: Device) -> Snapshot:
    """What is known of a device that cannot be read."""
    return Snapshot(
        name=device.kind,
        kind=device.kind,
        total_bytes=0,
        used_by_gpuq_bytes=0,
        used_by_others_bytes=0,
        headroom_bytes=0,
    )


def _cgroup_limit() -> int:
    """The memory limit of this container, or more than any machine has."""
    try:
        return int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):
        return 1 << 62
