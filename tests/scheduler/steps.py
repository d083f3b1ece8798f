"""A job's way through the store, a step a method."""

from dataclasses import dataclass

from builders import ORIGIN, MiB, prediction, spec

from jobs.run_dir import Progress
from scheduler.states import Outcome
from scheduler.store import Store


@dataclass
class Queue:
    """The store, with one step of a job's way per method."""

    store: Store

    def submitted(self, **fields: object) -> int:
        return self.store.submit([spec(**fields)], ORIGIN)[0][0]  # type: ignore[arg-type]

    def paused(self) -> int:
        job_id = self.submitted()
        self.store.pause(job_id)
        return job_id

    def placed(self) -> int:
        job_id = self.submitted()
        assert self.store.place(job_id, 512 * MiB, prediction()) == 1
        return job_id

    def running(self) -> int:
        job_id = self.placed()
        self.store.mark_running(job_id, 1, Progress(parameters=1000, resumed_from_step=0, steps=20_000))
        return job_id

    def finished(self, outcome: Outcome = Outcome.FAILED) -> int:
        job_id = self.running()
        self.end(job_id, outcome)
        return job_id

    def end(
        self,
        job_id: int,
        outcome: Outcome,
        *,
        requeue: bool = False,
        reason: str = "why",
        peak: int | None = None,
        shows_peak: bool = False,
    ) -> None:
        [live] = [one for one in self.store.live_attempts() if one.job_id == job_id]
        self.store.end_attempt(
            live, outcome, reason, requeue=requeue, exit_code=1, peak_bytes=peak, shows_peak=shows_peak
        )
