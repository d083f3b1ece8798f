"""What the scheduler can refuse. The tree's root is `jobs.errors.GpuqError`: one line a user can act on."""

from jobs.errors import GpuqError


class UnknownJobError(GpuqError):
    exit_code = 2

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job {job_id}; `gpuq status` lists them")


class StoreError(GpuqError):
    """The store cannot be used as it is."""


class DeviceUnreadableError(GpuqError):
    """The device does not answer. Nothing is started until it does."""


class DispatcherRunningError(GpuqError):
    """Another dispatcher holds this device."""
