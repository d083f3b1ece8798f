"""A worker of gpuq, and then what it had used: `python gpu_worker.py RUN_DIR`.

It imports what its job needs, and waits for a line of standard input before it trains: the bytes in use on the device.
By then its attempt must have been launched. Leaves `measured.json` in the run directory.
"""

import importlib
import json
import sys
from pathlib import Path

from jobs import worker
from jobs.resident import peak_resident_bytes, worker_modules
from jobs.run_dir import Launch, Peak, RunDir, read_record, write_atomically
from scheduler.device import choose_device


def main(run_dir: str) -> int:
    files = RunDir(Path(run_dir))
    for module in worker_modules(files.read_spec()):
        importlib.import_module(module)
    used_before = int(sys.stdin.readline())
    code = worker.main(run_dir, "1")
    launch = read_record(files.attempt(1).launch, Launch)
    assert launch is not None
    said = read_record(files.attempt(1).peak, Peak)
    assert said is not None
    own = {"reported_bytes": said.peak_bytes, "context_bytes": said.context_bytes}
    found = measured(launch.device, used_before)
    write_atomically(files.path / "measured.json", json.dumps({**own, **found}).encode())
    return code


def measured(device: str, used_before: int) -> dict[str, int]:
    """Peaks of this process: of the caching allocator's blocks and segments, and of all.

    All is what the device has more in use than before this process, which must be alone: NVML does not tell a process's
    bytes everywhere. Resident memory on the CPU, which has no such allocator.
    """
    if device == "cpu":
        return {"process_bytes": peak_resident_bytes()}
    import torch

    used = choose_device("cuda").snapshot({}).used_by_others_bytes  # by NVML, as before: mem_get_info counts otherwise
    reserved_peak = torch.cuda.max_memory_reserved(device)
    returned = reserved_peak - torch.cuda.memory_reserved(device)  # to the device, since the peak
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": reserved_peak,
        "process_bytes": used - used_before + returned,
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
