"""A worker's own memory: its cap, and the most it used. With `scheduler.device`, all that knows CUDA from the CPU."""

import re
import resource

import torch


def cap_memory(device: torch.device, reservation_bytes: int, context_bytes: int) -> None:
    """Hold this process to its reservation; call it before the first allocation on the device.

    On CUDA the caching allocator gets what the reservation leaves beside the context
    (`torch.cuda.set_per_process_memory_fraction`). On the CPU the parent process watches the resident memory.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = (reservation_bytes - context_bytes) / total
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
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
