"""Where a job is, how it ended, and the only ways from one to the next."""

from enum import StrEnum


class State(StrEnum):
    QUEUED = "queued"  # waits for a placement
    STARTING = "starting"  # placed: memory reserved, its worker loads data and network
    RUNNING = "running"  # trains
    FINISHED = "finished"  # has an outcome


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"  # its processes are gone and nobody saw them end
    STOPPED = "stopped"  # of attempts only: asked to stop, checkpoint written, the job queued again


class Wish(StrEnum):
    """What a person wants of a job that is not theirs to change at once."""

    CANCEL = "cancel"
    PAUSE = "pause"  # stays while the job is queued: it does not start


FAILURES = (Outcome.FAILED, Outcome.OUT_OF_MEMORY, Outcome.LOST)  # of jobs: something went wrong with them
LIVE = frozenset({State.STARTING, State.RUNNING})

TRANSITIONS = frozenset(
    {
        (State.QUEUED, State.STARTING),  # placed
        (State.QUEUED, State.FINISHED),  # cancelled, or it can never run
        (State.STARTING, State.RUNNING),
        (State.STARTING, State.QUEUED),  # its attempt ended, another will follow
        (State.STARTING, State.FINISHED),
        (State.RUNNING, State.QUEUED),
        (State.RUNNING, State.FINISHED),
        (State.FINISHED, State.QUEUED),  # retried by a person
    }
)
