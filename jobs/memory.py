"""A worker's own memory: its cap, and the most it used. With `scheduler.device`, all that knows CUDA from the CPU."""

import re
import resource

import torch

MiB = 1 << 20

# Outside its caching allocator, as when a context is made, torch reports CUDA's own error; libraries report theirs. A
# convolution whose workspaces do not fit is one that cuDNN has no engine or algorithm for.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|CUDA (driver )?error: out of memory|_STATUS_ALLOC_FAILED"
    "|unable to find an engine to execute this computation|Unable to find a valid cuDNN algorithm to run convolution"
)

# What torch's messages say of the codes that stand for the device, its driver or its connection (CUDA Runtime API,
# "Data types used by CUDA Runtime", cudaError); an "unspecified launch failure" is more often a device than a kernel.
_DEVICE_FAILURE = re.compile(
    "CUDA driver error: (?!out of memory)|No CUDA GPUs are available|Found no NVIDIA driver|CUDA unknown error"
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

    On CUDA: the allocator's peak of reserved bytes, and the context. On the CPU: the peak of resident memory
    (`ru_maxrss`, in KiB on Linux; getrusage(2)).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + context_bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts(device: torch.device, imported_bytes: int | None, loaded_bytes: int | None) -> dict[str, int | None]:
    """What is known of the parts of the peak, as a `Peak` names them, given resident memory at two earlier moments.

    On CUDA: the caching allocator's peaks, of tensors and its library workspaces, and of what it reserved.
    """
    if device.type == "cuda":
        return {
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
