"""What NVML tells of a GPU; asking it opens no context there. For the scheduler, and for a worker about itself."""

import contextlib
import os
from typing import Any

MiB = 1 << 20

PLAUSIBLE_CONTEXTS = range(64 * MiB, 4096 * MiB)  # of bytes; known ones are of 0.3 to 0.6 GB


def handle(gpu: str) -> Any:
    """Of a GPU by its index or UUID, as CUDA_VISIBLE_DEVICES names one. Raises pynvml.NVMLError."""
    import pynvml

    pynvml.nvmlInit()
    if gpu.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)


def bytes_by_process(gpu: Any) -> dict[int, int | None]:
    """Bytes of processes on a GPU, by pid, as far as NVML tells.

    Containers list the host's pids, WSL2 no bytes, and some virtual GPUs, or MIG without permission, no processes.
    """
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return {one.pid: one.usedGpuMemory for one in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)}
    return {}


def own_bytes() -> int | None:
    """What this process holds of the one GPU that it is let see; None where NVML does not tell."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return bytes_by_process(handle(os.environ.get("CUDA_VISIBLE_DEVICES", ""))).get(os.getpid())
    return None
