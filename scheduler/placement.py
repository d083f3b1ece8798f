"""Which queued jobs start now: best-fit decreasing over reserved bytes. Pure.

Jobs of the highest priority come first; among equals, the largest that fits is the one that leaves the least room
(REFERENCE: the block study's queue). What does not fit waits until a job ends or memory comes free.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.units import format_bytes

MiB = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """A queued job. `reservation_bytes` is None while its estimate is not there."""

    job_id: int
    priority: int
    reservation_bytes: int | None
    threads: int
    largest_batch_size: int | None = None  # that would fit the device, of a job that does not
    alone: bool = False  # is to have the whole device: its memory is to be measured


@dataclass(frozen=True)
class Resident:
    """A live attempt and what it holds: the larger of its reservation and what it was measured to use."""

    job_id: int
    held_bytes: int
    threads: int


@dataclass(frozen=True)
class Capacity:
    """What there is to share out. `threads` is None where CPU cores are not what limits jobs (a GPU)."""

    budget_bytes: int
    used_by_others_bytes: int
    largest_bytes: int  # the budget if nobody else used the device
    threads: int | None


@dataclass(frozen=True)
class Placement:
    job_id: int
    reservation_bytes: int


@dataclass(frozen=True)
class Plan:
    """What to start, why the rest waits, and what can never start, each by job id."""

    placements: Sequence[Placement] = ()
    waiting: Mapping[int, str] = field(default_factory=dict)
    impossible: Mapping[int, str] = field(default_factory=dict)


def plan(queued: Iterable[Candidate], resident: Sequence[Resident], capacity: Capacity) -> Plan:
    """Place as many queued jobs as fit.

    A job never overtakes one of higher priority that waits for memory or threads.
    """
    free_bytes = capacity.budget_bytes - sum(job.held_bytes for job in resident)
    free_threads = None if capacity.threads is None else capacity.threads - sum(job.threads for job in resident)
    placements: list[Placement] = []
    waiting: dict[int, str] = {}
    impossible: dict[int, str] = {}
    first_waiting: Candidate | None = None
    for job in sorted(queued, key=_best_fit_decreasing):
        needed = free_bytes // MiB * MiB if job.alone else job.reservation_bytes
        if needed is None:
            waiting[job.job_id] = "its memory is being estimated"
        elif (obstacle := _impossible(job, needed, capacity)) is not None:
            impossible[job.job_id] = obstacle
        elif first_waiting is not None and first_waiting.priority > job.priority:
            waiting[job.job_id] = f"job {first_waiting.job_id} of higher priority comes first"
        elif job.alone and (resident or placements or needed <= 0):
            waiting[job.job_id] = "waits until nothing else runs: a few steps alone are to measure its memory"
            first_waiting = first_waiting or job
        elif needed > free_bytes:
            waiting[job.job_id] = _memory_reason(needed, free_bytes, capacity)
            first_waiting = first_waiting or job
        elif free_threads is not None and job.threads > free_threads:
            waiting[job.job_id] = f"needs {_cores(job.threads)}, {free_threads} of {capacity.threads} free"
            first_waiting = first_waiting or job
        else:
            placements.append(Placement(job.job_id, needed))
            free_bytes -= needed
            free_threads = None if free_threads is None else free_threads - job.threads
    return Plan(placements, waiting, impossible)


def _best_fit_decreasing(job: Candidate) -> tuple[int, int, int]:
    return -job.priority, -(job.reservation_bytes or 0), job.job_id


def _impossible(job: Candidate, needed: int, capacity: Capacity) -> str | None:
    if needed > capacity.largest_bytes:
        return too_large(needed, capacity.largest_bytes, job.largest_batch_size)
    if capacity.threads is not None and job.threads > capacity.threads:
        return f"needs {_cores(job.threads)}, the device has {capacity.threads}"
    return None


def too_large(needed: int, most: int, largest_batch_size: int | None) -> str:
    """Why a job can never fit, and what to do about it."""
    advice = (
        "a smaller train.batch_size or model may fit"
        if largest_batch_size is None
        else f"train.batch_size = {largest_batch_size} would fit"
    )
    return f"needs {format_bytes(needed)}, the device has {format_bytes(most)} at most; {advice}"


def _memory_reason(needed: int, free: int, capacity: Capacity) -> str:
    reason = f"needs {format_bytes(needed)}, {format_bytes(max(0, free))} unreserved"
    if needed <= free + capacity.used_by_others_bytes:
        reason += f" ({format_bytes(capacity.used_by_others_bytes)} used by others)"
    return reason


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"
