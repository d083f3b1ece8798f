"""The exceptions of jobs and of the scheduler: one tree, each message one line a user can act on."""

from collections.abc import Sequence

from augment.errors import DataError
from models.errors import ModelError


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


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not whole, or the disk does not give it back."""


# What a room says in words of its own: the message is all a user needs, and trying again would end the same way.
UNDERSTOOD = (GpuqError, DataError, ModelError)


def in_words(error: BaseException) -> str:
    """An exception as one line: its message if it is understood, else its type and the message's first line."""
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:500]
    return printable(first_line if isinstance(error, UNDERSTOOD) else f"{type(error).__name__}: {first_line}")


def printable(text: str) -> str:
    """Text for a terminal, on one line: names and what other people's code says may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
