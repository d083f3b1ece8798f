"""A worker's own memory: its cap, and the most it used. With `scheduler.device`, all that knows CUDA from the CPU."""

import re

import torch

from jobs import nvml
from jobs.resident import peak_resident_bytes

# Outside its caching allocator, as when a context is made, torch reports CUDA's own error; libraries report theirs. A
# convolution whose workspaces do not fit is one that cuDNN has no engine or algorithm for.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|CUDA (driver )?error: out of memory|_STATUS_ALLOC_FAILED|_DEVICE_ALLOCATION_FAILED"
    "|unable to find an engine to execute this computation|Unable to find a valid cuDNN algorithm to run convolution"
)

# What torch's messages say of the codes that stand for the device, its driver or its connection (CUDA Runtime API,
# "Data types used by CUDA Runtime", cudaError); an "unspecified launch failure" is more often a device than a kernel.
# What keeps a process from its device at the very start, as after an update of the driver, torch words itself
# (c10/cuda/CUDAFunctions.cpp, device_count_impl).
_DEVICE_FAILURE = re.compile(
    "CUDA driver error: (?!out of memory)|No CUDA GPUs are available|Found no NVIDIA driver|CUDA unknown error"
    "|Unexpected error from cudaGetDeviceCount|CUDA driver initialization failed|driver on your system is too old"
    "|CUDA error: (initialization error|driver shutting down|all CUDA-capable devices are busy or unavailable"
    "|no CUDA-capable device is detected|uncorrectable ECC error|uncorrectable NVLink error"
    "|the launch timed out|hardware stack error|unspecified launch failure|system not yet initialized"
    "|system has unsupported display driver|unknown error)"
)


def cap_memory(device: torch.device, reservation_bytes: int, context_bytes: int) -> None:
    """Hold this process to its reservation; call it before the first allocation on the device.

    On CUDA the caching allocator gets what the reservation leaves beside the context
    (`torch.cuda.set_per_process_memory_fraction`). On the CPU the parent process watches the resident memory.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = (reservation_bytes - context_bytes + 0.5) / total  # torch rounds share × total down
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(share, 1e-6)), device)


def peak_bytes(device: torch.device, context_bytes: int = 0) -> int:
    """The most memory this process has held on the device so far.

    On CUDA: the allocator's peak of reserved bytes, and the context, of `context_bytes` if its own are not known. On
    the CPU: the peak of resident memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + (own_context_bytes(device) or context_bytes)
    return peak_resident_bytes()


def own_context_bytes(device: torch.device) -> int | None:
    """What this process holds on a GPU beside its caching allocator: the context, with the kernels loaded so far.

    None on the CPU, and where NVML does not tell the bytes of this process.
    """
    if device.type != "cuda":
        return None
    context = (nvml.own_bytes() or 0) - torch.cuda.memory_reserved(device)
    return context if context in nvml.PLAUSIBLE_CONTEXTS else None


def parts(device: torch.device, imported_bytes: int | None, loaded_bytes: int | None) -> dict[str, int | None]:
    """What is known of the parts of the peak, as a `Peak` names them, given resident memory at two earlier moments.

    On CUDA: the context, and the caching allocator's peaks, of tensors and its library workspaces, and of what it
    reserved.
    """
    if device.type == "cuda":
        return {
            "context_bytes": own_context_bytes(device),
            "allocated_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"imported_bytes": imported_bytes, "loaded_bytes": loaded_bytes}


def requested_bytes(error: BaseException) -> int | None:
    """The allocation that failed, as torch's message tells it; None if it does not."""
    told = re.search(r"[Tt]ried to allocate ([\d.]+) ([KMG]iB|bytes)", str(error))
    if told is None:
        return None
    units = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(told[1]) * units[told[2]])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on either device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def is_device_failure(error: BaseException) -> bool:
    """Whether an exception says that a GPU or its driver has failed, whatever the job did.

    An illegal memory access or a failed assertion in a kernel is the job's own.
    """
    return isinstance(error, RuntimeError) and _DEVICE_FAILURE.search(str(error)) is not None
