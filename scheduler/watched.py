"""Jobs that somebody waits for."""

from collections.abc import Iterable

from msgspec.structs import replace

from scheduler.errors import UnknownJobError
from scheduler.records import Job
from scheduler.states import Outcome, State
from scheduler.store import Store


class Watched:
    """The given jobs as they are now. One that was removed is as it was last seen; whoever removes it knows its end."""

    def __init__(self, store: Store, ids: Iterable[int]) -> None:
        """Raises UnknownJobError."""
        self._store = store
        self._seen = {job.id: job for job in store.jobs(ids)}

    def jobs(self) -> list[Job]:
        for job_id, seen in self._seen.items():
            try:
                self._seen[job_id] = self._store.job(job_id)
            except UnknownJobError:
                if seen.state is not State.FINISHED:  # it ended unseen, and how is not known any more
                    self._seen[job_id] = replace(
                        seen, state=State.FINISHED, outcome=Outcome.CANCELLED, reason="removed", eta_s=None
                    )
        return list(self._seen.values())
