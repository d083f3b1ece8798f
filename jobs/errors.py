"""The exceptions of jobs and of the scheduler: one tree, each message one line a user can act on."""

from collections.abc import Sequence


class GpuqError(Exception):
    """Anything gpuq tells a user instead of a traceback."""

    exit_code = 1


class InputError(GpuqError):
    """Job files or arguments that cannot be used: one line per error, nothing was done."""

    exit_code = 2

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class TrainingError(GpuqError):
    """Training cannot go on, and trying again would end the same way."""


class CheckpointError(GpuqError):
    """A checkpoint cannot be read, or belongs to another job or version."""
