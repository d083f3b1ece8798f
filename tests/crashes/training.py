"""What the second zygote's children do: an attempt of a tiny job with the real trainer, as `jobs.worker` makes it."""

import signal  # noqa: F401
from pathlib import Path

import augment.operations  # noqa: F401
import jobs.diagnostics.landscape
import jobs.train  # noqa: F401 — imported here, once for all children
from jobs import worker
from jobs.job_file import read_job_files
from jobs.run_dir import Launch, RunDir, write_record

GiB = 1 << 30


def attempt(job_file: str, run_dir: str, number: str, cache_dir: str) -> int:
    """Train an attempt of the job; the worker's exit code."""
    files = RunDir(Path(run_dir))
    [(_, spec)] = read_job_files([Path(job_file)])
    files.create(spec)
    launch = Launch(
        number=int(number),
        device="cpu",
        precision="fp32",
        reservation_bytes=GiB,
        context_bytes=0,
        resident_limit_bytes=None,
        grace_s=30.0,
        cache_dir=cache_dir,
        environment={},
    )
    write_record(files.attempt(launch.number).launch, launch)
    return worker.run_attempt(spec, files, files.attempt(launch.number), launch, lambda: False)
