"""What is kept of a job outside the store from the moment it is queued: enough to queue it again if the store is lost.

The store is what counts. Copies are left after its transaction, so that none is of a job that was never queued, and
are not fsynced, which would take longer than all the rest of `gpuq submit`: what a crash or a power cut keeps from the
disk, the next dispatcher leaves there when it starts.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from jobs.run_dir import make_private_folder, write_atomically
from jobs.spec import encode
from scheduler.home import Home
from scheduler.records import Job, Origin


class Submitted(Origin, frozen=True, kw_only=True):
    """What a run directory's `submission.json` holds: where from, and when."""

    at: str


def leave_copies(home: Home, jobs: Iterable[Job]) -> None:
    """Leave in each job's run directory its spec and where it came from, unless they are there. Raises OSError."""
    for job in jobs:
        files = home.run_dir(job.id)
        make_private_folder(files.path)
        _leave(files.submission, msgspec.json.encode(_submitted(job)))
        _leave(files.spec, encode(job.spec))


def _submitted(job: Job) -> Submitted:
    return Submitted(
        at=job.submitted_at, directory=job.submitted_from, git_commit=job.git_commit, git_dirty=job.git_dirty
    )


def _leave(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content, durable=False)
