"""NVML without a GPU: what `import pynvml` finds in tests."""

from types import ModuleType, SimpleNamespace

GiB = 1 << 30


class NVMLError(Exception):
    pass


class StubNvml(ModuleType):
    """NVML of a driver with one GPU, as far as it is asked."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.error: str | None = None
        self.count = 1
        self.capability = (9, 0)
        self.memory = SimpleNamespace(total=80 * GiB, free=50 * GiB)
        self.processes: list[SimpleNamespace] | None = []

    def nvmlInit(self) -> None:  # noqa: N802
        if self.error is not None:
            raise NVMLError(self.error)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= self.count:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> SimpleNamespace:  # noqa: N802
        return self.memory

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> list[SimpleNamespace]:  # noqa: N802
        if self.processes is None:
            raise NVMLError("Not Supported")
        return self.processes

    def nvmlDeviceGetName(self, _handle: int) -> str:  # noqa: N802
        return "NVIDIA H200"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlDeviceGetCudaComputeCapability(self, _handle: int) -> tuple[int, int]:  # noqa: N802
        return self.capability


def holding(pid: int, size_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size_bytes)
