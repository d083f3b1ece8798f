"""Somebody impatient: wishes this and that of jobs, and kills their processes, until so many attempts have ended."""

import contextlib
import random
import signal
import sys
import time
from pathlib import Path

from jobs.run_dir import ProcessRecord, read_record
from scheduler.home import Home
from scheduler.process import Identity
from scheduler.store import Store

PACE_S = 0.05  # between one wish and the next: nothing would ever run without
MOST_WISHES = 4000  # on a machine that is busy with other work few jobs get anywhere between two
VERBS = ["cancel", "retry", "retry", "pause", "resume", "resume", "kill a worker", "kill a parent", "pause all"]


def kill(home: Home, store: Store, verb: str, chance: random.Random) -> None:
    """A process of a live attempt, if there is one."""
    if live := store.live_attempts():
        attempt = chance.choice(live)
        record = read_record(home.run_dir(attempt.job_id).attempt(attempt.number).process, ProcessRecord)
        if record is not None and verb == "kill a parent":
            Identity(record.parent_pid, record.parent_start_ticks, record.boot_id).send(signal.SIGKILL)
        elif record is not None:
            Identity(record.worker_pid, record.worker_start_ticks, record.boot_id).send(signal.SIGKILL)


def main(path: str, seed: str, attempts: str) -> None:
    home, chance = Home(Path(path)), random.Random(seed)
    with contextlib.closing(Store(home.store)) as store:
        jobs = [job.id for job in store.jobs()]
        for _ in range(MOST_WISHES):
            if sum(attempt.ended_at is not None for attempt in store.attempts()) >= int(attempts):
                return
            verb, job = chance.choice(VERBS), chance.choice(jobs)
            if verb.startswith("kill"):
                kill(home, store, verb, chance)
            elif verb == "pause all":
                store.pause_queue(running_go_on=chance.random() < 0.5)
                store.resume_queue()
            else:
                getattr(store, verb)(job)
            time.sleep(chance.uniform(0, 2 * PACE_S))
    sys.exit(f"fewer than {attempts} attempts have ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
