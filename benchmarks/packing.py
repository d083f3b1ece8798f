"""Jobs at once on a simulated GPU: the block study's batch, packed by gpuq, by an oracle, and as people do without.

    uv run python benchmarks/packing.py --out benchmarks/results/packing.json
    uv run python benchmarks/packing.py --estimates benchmarks/results/packing.json

The batch is every jobs/*.toml under the study's four policies, each estimated as for a GPU (bf16); `--estimates` takes
those of an earlier result. What is simulated, and so an assumption rather than a measurement:

- What a job truly needs is its estimate × exp(e), e normal with mean 0. The deviation is that of the accuracy that
  issue 4 asks for on a GPU (0.022: median error 1.5 %, 95th percentile 4.4 %) and, to be hard, 0.05.
- How long a job takes is the study's average for its kind (bottlenecks 22.6 minutes, residual 55; the plain networks,
  of which it says nothing, as bottlenecks), ± 20 % uniform. Jobs do not slow each other down.
- A job that needs more than its reservation ends after a minute, and comes again with half as much again.
- What a job gives back, it gives back after the second of its 200 epochs, an epoch taking its share of the job's time:
  its peak has then settled, and 2 % are left to it beyond (`jobs.surplus`). One that has run out of memory keeps all.
"""

import argparse
import heapq
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import harness
from configurations import as_toml
from harness import MiB

from jobs.surplus import GROWTH
from scheduler.estimate import OUT_OF_MEMORY_GROWTH, PRIOR_MARGINS, Basis
from scheduler.margin import learned
from scheduler.placement import Candidate, Capacity, Resident, plan

GiB = 1 << 30
POLICIES = ("none", "easy", "hard2", "hard3")
RESIDUAL = ("resv1", "hwyv2")
MINUTES, RESIDUAL_MINUTES = 22.6, 55.0  # REFERENCE: the block study's training times
FAILING_MINUTES = 1.0
SETTLED_SHARE = 2 / 200  # of its epochs, after which a job gives back
DEVIATIONS = (0.022, 0.05)
PAST_JOBS = 60
SIZES = (12, 24)  # GB, as sellers count


@dataclass(frozen=True)
class Simulated:
    """A job of the batch."""

    id: int
    name: str
    estimate_bytes: int
    true_bytes: int
    minutes: float


@dataclass
class Run:
    """What happened: how many jobs ran from each minute on, and while how many of these others waited."""

    out_of_memory: int = 0
    at_once: list[tuple[float, int, int]] = field(default_factory=list)  # (from minute, running, waiting)
    could_have: list[int] = field(default_factory=list)  # jobs more that an oracle had started at the same moments
    most_used_bytes: int = 0

    @property
    def hours(self) -> float:
        return self.at_once[-1][0] / 60


Reserve = Callable[[Simulated, "Simulation"], int]


def estimate_and_margin(job: Simulated, run: "Simulation") -> int:
    """As gpuq does: a margin learned from jobs that have ended, and more after an attempt that was not enough."""
    margin = learned(run.ratios, PRIOR_MARGINS[Basis.MODELLED])
    return max(math.ceil(job.estimate_bytes * (1 + margin)), run.exceeded.get(job.id, 0))


def true_need(job: Simulated, _run: "Simulation") -> int:
    return job.true_bytes


def equal_part(_job: Simulated, run: "Simulation") -> int:
    """As many equal parts of the device as the largest job allows with gpuq's first margin."""
    largest = max(one.estimate_bytes for one in run.jobs) * (1 + PRIOR_MARGINS[Basis.MODELLED])
    return run.budget_bytes // int(run.budget_bytes // largest)


@dataclass(frozen=True)
class Packer:
    """Who decides what starts: what each job is given, how many run at most, how many jobs it has learned from.

    Its jobs may give back what they do not need, once they have shown that.
    """

    name: str
    reserve: Reserve
    most: int | None = None
    past_jobs: int = 0
    gives_back: bool = False


PACKERS = (
    Packer("oracle", true_need),
    Packer("gpuq, on a new machine", estimate_and_margin, gives_back=True),
    Packer(f"gpuq, {PAST_JOBS} jobs later", estimate_and_margin, past_jobs=PAST_JOBS, gives_back=True),
    Packer("on a new machine, nothing given back", estimate_and_margin),
    Packer(f"{PAST_JOBS} jobs later, nothing given back", estimate_and_margin, past_jobs=PAST_JOBS),
    Packer("cap of 4", estimate_and_margin, most=4),
    Packer("equal split", equal_part),
)


class Simulation:
    """A batch on a device, from one event of a job to the next. Placements are gpuq's own (`placement.plan`)."""

    def __init__(self, jobs: Sequence[Simulated], budget_bytes: int, packer: Packer, past: Sequence[float]) -> None:
        """`past` are ratios of true to estimated bytes of earlier jobs."""
        self.jobs, self.budget_bytes, self.packer = jobs, budget_bytes, packer
        self.ratios = list(past[: packer.past_jobs])  # and of jobs that have ended
        self.exceeded: dict[int, int] = {}  # the reservation of a job's next attempt, where one was not enough
        self.queued = {job.id: job for job in jobs}
        self.running: dict[int, int] = {}  # reservations
        self.events: list[tuple[float, int, bool]] = []  # (minute, job, whether it ends there, or gives back)
        self.known = {job.id: job for job in jobs}
        self.result = Run()

    def run(self) -> Run:
        now = 0.0
        while self.queued or self.running:
            self._start(now)
            self.result.at_once.append((now, len(self.running), len(self.queued)))
            self.result.could_have.append(self._oracle_more())
            used = sum(min(self.known[one].true_bytes, held) for one, held in self.running.items())
            self.result.most_used_bytes = max(self.result.most_used_bytes, used)
            now, job_id, ends = heapq.heappop(self.events)
            if ends:
                self._end(job_id)
            else:
                self._give_back(job_id)
        self.result.at_once.append((now, 0, 0))
        return self.result

    def _start(self, now: float) -> None:
        most = len(self.jobs) if self.packer.most is None else self.packer.most
        reservations = {one: self.packer.reserve(job, self) for one, job in self.queued.items()}
        for job_id, held in self._placed(reservations, self.running)[: most - len(self.running)]:
            job = self.queued.pop(job_id)
            self.running[job_id] = held
            fails = job.true_bytes > held
            heapq.heappush(self.events, (now + (FAILING_MINUTES if fails else job.minutes), job_id, True))
            if self.packer.gives_back and not fails and job_id not in self.exceeded:
                heapq.heappush(self.events, (now + SETTLED_SHARE * job.minutes, job_id, False))

    def _placed(self, wanted: Mapping[int, int], held: Mapping[int, int]) -> list[tuple[int, int]]:
        """Who starts, and with how much."""
        candidates = [Candidate(one, 0, size, threads=1) for one, size in wanted.items()]
        residents = [Resident(one, size, threads=1) for one, size in held.items()]
        capacity = Capacity(self.budget_bytes, 0, self.budget_bytes, threads=None)
        return [(one.job_id, one.reservation_bytes) for one in plan(candidates, residents, capacity).placements]

    def _oracle_more(self) -> int:
        """How many of the waiting jobs fit beside the running ones, were all true needs known."""
        wanted = {one: job.true_bytes for one, job in self.queued.items()}
        return len(self._placed(wanted, {one: self.known[one].true_bytes for one in self.running}))

    def _give_back(self, job_id: int) -> None:
        left = math.ceil(self.known[job_id].true_bytes * (1 + GROWTH["cuda"]))
        self.running[job_id] = min(left, self.running[job_id])

    def _end(self, job_id: int) -> None:
        job, held = self.known[job_id], self.running.pop(job_id)
        if job.true_bytes > held:
            self.result.out_of_memory += 1
            self.exceeded[job_id] = math.ceil(held * OUT_OF_MEMORY_GROWTH)
            self.queued[job_id] = job
        else:
            self.ratios.append(job.true_bytes / job.estimate_bytes)


def batch(estimates: Mapping[str, int], deviation: float, seed: int) -> list[Simulated]:
    """The jobs with what they truly need and take, drawn by the seed."""
    random_ = random.Random(seed)
    jobs = []
    for number, (name, estimate_bytes) in enumerate(sorted(estimates.items())):
        minutes = RESIDUAL_MINUTES if name.startswith(RESIDUAL) else MINUTES
        true_bytes = int(estimate_bytes * math.exp(random_.gauss(0, deviation)))
        jobs.append(Simulated(number, name, estimate_bytes, true_bytes, minutes * random_.uniform(0.8, 1.2)))
    return jobs


def budget_bytes(gigabytes: int) -> int:
    """As `scheduler.device.CudaDevice` leaves of a GPU of this size on which nobody else is."""
    total = gigabytes * 10**9
    return total - max(256 * MiB, total // 50)


def average_at_once(run: Run, until: float) -> float:
    """Jobs running at once, averaged over the time up to a minute."""
    area = 0.0
    for (began, running, _), (ended, _, _) in zip(run.at_once, run.at_once[1:], strict=False):
        area += running * max(0.0, min(ended, until) - began)
    return area / until


def until_none_waits(run: Run) -> float:
    return next(began for began, _, waiting in run.at_once if not waiting)


@dataclass(frozen=True)
class Outcome:
    """A packer on a device, averaged over the seeds unless it says otherwise."""

    at_once: float  # jobs, while some waited in the oracle's run
    behind_oracle: float  # jobs fewer than the oracle in that time
    most_behind: float  # of any seed
    could_have: int  # jobs more that an oracle had started at the same moment, the most of any moment of any seed
    hours: float
    out_of_memory: float
    most_used_share: float  # of the budget, by what jobs truly need, the most of any seed


def outcomes(estimates: Mapping[str, int], gigabytes: int, deviation: float, seeds: int) -> dict[str, Outcome]:
    budget = budget_bytes(gigabytes)
    runs: dict[str, list[Run]] = {packer.name: [] for packer in PACKERS}
    for seed in range(seeds):
        jobs = batch(estimates, deviation, seed)
        past_errors = random.Random(f"past {seed}")
        past = [math.exp(past_errors.gauss(0, deviation)) for _ in range(PAST_JOBS)]
        for packer in PACKERS:
            runs[packer.name].append(Simulation(jobs, budget, packer, past).run())
    spans = [until_none_waits(run) for run in runs["oracle"]]
    best = [average_at_once(run, span) for run, span in zip(runs["oracle"], spans, strict=True)]
    return {name: _outcome(found, spans, best, budget) for name, found in runs.items()}


def _outcome(runs: Sequence[Run], spans: Sequence[float], best: Sequence[float], budget: int) -> Outcome:
    at_once = [average_at_once(run, span) for run, span in zip(runs, spans, strict=True)]
    behind = [theirs - ours for theirs, ours in zip(best, at_once, strict=True)]
    mean: Callable[[Sequence[float]], float] = statistics.fmean
    return Outcome(
        at_once=mean(at_once),
        behind_oracle=mean(behind),
        most_behind=max(behind),
        could_have=max(max(run.could_have) for run in runs),
        hours=mean([run.hours for run in runs]),
        out_of_memory=mean([run.out_of_memory for run in runs]),
        most_used_share=max(run.most_used_bytes for run in runs) / budget,
    )


def estimate_batch() -> dict[str, int]:
    """The estimated bytes of every job of the study's batch on a GPU, by name."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for path in sorted(Path("jobs").glob("*.toml")):
            tables: dict[str, dict[str, Any]] = {
                "model": {"name": path.stem},
                "train": {"precision": "bf16"},
                "matrix": {'"data.augment"': POLICIES},
            }
            (file := Path(folder) / path.name).write_text(as_toml(tables))
            files.append(file)
        found = harness.estimated(Path(folder) / "home", files, "cuda")
    return {f"{one['name']} {number}": one["estimate_bytes"] for number, one in enumerate(found)}


def show(gigabytes: int, deviation: float, found: Mapping[str, Outcome]) -> None:
    print(f"\n{gigabytes} GB, true needs off by {100 * deviation:.1f} % (standard deviation):\n")
    print(
        "| packer | jobs at once | behind the oracle | most, of any seed | could have started | hours | out of memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, one in found.items():
        print(
            f"| {name} | {one.at_once:.2f} | {one.behind_oracle:.2f} | {one.most_behind:.2f} | {one.could_have} "
            f"| {one.hours:.1f} | {one.out_of_memory:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--estimates", type=Path, help="an earlier result, to take the estimates of")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    earlier = options.estimates
    estimates = estimate_batch() if earlier is None else json.loads(earlier.read_text())["estimate_bytes"]
    results: list[dict[str, Any]] = []
    for gigabytes in SIZES:
        for deviation in DEVIATIONS:
            found = outcomes(estimates, gigabytes, deviation, options.seeds)
            show(gigabytes, deviation, found)
            told = {name: asdict(one) for name, one in found.items()}
            results.append({"gigabytes": gigabytes, "deviation": deviation, "packers": told})
    if options.out is not None:
        result = {**harness.about(), "seeds": options.seeds, "estimate_bytes": estimates, "results": results}
        harness.write(options.out, result)


if __name__ == "__main__":
    main()
