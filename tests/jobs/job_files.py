"""Job files in tests: what they hold, and what is said about them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.job_file import read_job_files
from jobs.spec import JobSpec

RESV1 = '[model]\nname = "resv1"\n'

Write = Callable[..., Path]


def jobs(*paths: Path) -> list[JobSpec]:
    return [job for _, job in read_job_files(paths)]


def errors(*paths: Path) -> list[str]:
    """The lines of the InputError, without the files' folder."""
    with pytest.raises(InputError) as caught:
        read_job_files(paths)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return [line.removeprefix(f"{paths[0].parent}/") for line in caught.value.lines]


def names(specs: Sequence[JobSpec]) -> list[str]:
    return [spec.name for spec in specs]
