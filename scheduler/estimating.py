"""Estimates for queued jobs, as they become known. Jobs of one signature are traced once."""

import time
from collections.abc import Callable, Iterable

from jobs.trace_messages import Reply
from scheduler import estimate as estimates
from scheduler.estimate import Estimate, History
from scheduler.records import Job
from scheduler.states import Outcome
from scheduler.store import Store
from scheduler.tracing import Failed, Tracer

ROOM_RETRY_S = 30.0  # decoding data again and again would wear the disk


class Estimating:
    """Has jobs without an estimate traced, and takes over what becomes known."""

    def __init__(
        self,
        store: Store,
        tracer: Tracer,
        signature: Callable[[Job], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._signature = signature
        self._asked: dict[int, str] = {}  # the signatures of jobs that are being traced
        self._traced: dict[str, Estimate] = {}  # by signature, since this dispatcher came
        self._replies: dict[int, Reply | Failed] = {}  # not yet in the store: it may be full
        self._clock = clock
        self._again_at = clock()
        self.without_room: dict[int, str] = {}  # why jobs wait whose data found no room on the disk, by id

    def advance(self, startable: Callable[[], Iterable[Job]], history: History, most_bytes: int | None) -> None:
        """Take over what has been traced, then ask for what is missing; `most_bytes` is what a job may come to."""
        self._replies |= self._tracer.poll()
        for job_id in list(self._replies):
            self._take(job_id, self._replies[job_id])
            del self._asked[job_id], self._replies[job_id]
        if self._clock() < self._again_at:
            return
        pending = self._tracer.pending
        waiting = [job for job in startable() if job.estimate is None and job.id not in pending]
        self._estimate(sorted(waiting, key=lambda job: (-job.priority, job.id)), history, most_bytes)

    def _estimate(self, jobs: Iterable[Job], history: History, most_bytes: int | None) -> None:
        """What is known already is stored in one transaction, and the rest asked for."""
        found: dict[int, Estimate] = {}
        asked = set(self._asked.values())
        for job in jobs:
            signature = self._signature(job)
            self.without_room.pop(job.id, None)
            known = estimates.best(job.spec, signature, history, self._traced.get(signature))
            if known is not None:
                found[job.id] = known
            elif signature not in asked:  # else it is known soon
                asked.add(signature)
                self._asked[job.id] = signature
                self._tracer.ask(job.id, job.spec, prepare=True, most_bytes=most_bytes)
        if found:
            self._store.set_estimates(found)

    def _take(self, job_id: int, reply: Reply | Failed) -> None:
        signature = self._asked[job_id]
        if isinstance(reply, Failed) and reply.no_room:
            self.without_room[job_id] = f"waiting for room: {reply.reason}"
            self._again_at = self._clock() + ROOM_RETRY_S
            return
        if isinstance(reply, Failed) and not reply.untraceable:
            self._store.finish_queued(job_id, Outcome.FAILED, reply.reason)
            return  # its like is tried anew: what was in the way, such as another network's leftovers, may be gone
        self._traced[signature] = _estimate(reply)
        self._store.set_estimate(job_id, self._traced[signature])


def _estimate(reply: Reply | Failed) -> Estimate:
    if isinstance(reply, Failed):
        return estimates.probed()
    return estimates.modelled(reply.components, reply.parameters, reply.largest_batch_size)
