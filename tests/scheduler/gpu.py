"""A GPU as the scheduler knows one, without the GPU."""

from collections.abc import Mapping

from builders import GiB, MiB

from jobs.trace_messages import Constants
from scheduler.device import Snapshot
from scheduler.errors import DeviceUnreadableError


class Gpu:
    """Of 8 GiB; what it has in use is read from `used_bytes`, one figure a look, the last one for ever."""

    kind = "cuda"
    torch_device = "cuda:0"

    def __init__(self, *used_bytes: int, listed_bytes: int = 0) -> None:
        self.constants = Constants()
        self.driver = "580.65"
        self.error: str | None = None
        self._used_bytes = list(used_bytes or (0,))
        self._listed_bytes = listed_bytes  # of each of our processes, by NVML

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        if self.error is not None:
            raise DeviceUnreadableError(self.error)
        used = self._used_bytes.pop(0) if len(self._used_bytes) > 1 else self._used_bytes[0]
        held = {pid: self._listed_bytes or reported for pid, reported in workers.items()}
        return Snapshot(
            name="NVIDIA H200",
            kind=self.kind,
            total_bytes=8 * GiB,
            used_by_gpuq_bytes=sum(held.values()),
            used_by_others_bytes=max(0, used - sum(held.values())),
            headroom_bytes=256 * MiB,
            used_by_worker=held,
        )

    def driver_version(self) -> str:
        if self.error is not None:
            raise DeviceUnreadableError(self.error)
        return self.driver

    def auto_precision(self) -> str:
        return "bf16"

    def environment(self, threads: int) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": str(threads)}
