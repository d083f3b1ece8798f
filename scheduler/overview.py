"""`gpuq status`: look, and show."""

from collections.abc import Iterable
from datetime import UTC, datetime

from scheduler.device import choose_device
from scheduler.home import Home
from scheduler.status import StatusReport, report
from scheduler.store import Store

LOG_LINES = 20


def look(home: Home, ids: Iterable[int] | None, device: str, memory_bytes: int | None) -> StatusReport:
    """The state of all jobs, or of the given ones. Raises UnknownJobError."""
    store = Store(home.store, even_if_full=True)
    return report(home, store, choose_device(device, memory_bytes), datetime.now(UTC), store.jobs(ids))


def show(home: Home, told: StatusReport, *, detailed: bool) -> None:
    """Print it for a person."""
    from scheduler import render
    from scheduler.log import last_lines

    out = render.console()
    if not detailed:
        out.print(render.status(told))
        return
    for job in told.jobs:
        explain = job.outcome not in (None, "succeeded", "cancelled") or (
            job.attempts and job.attempts[-1].outcome in ("failed", "out_of_memory", "lost")
        )
        out.print(render.job_details(job, last_lines(home.run_dir(job.id).log, LOG_LINES) if explain else []))
