"""Kill dispatchers, parent processes and workers at random while small jobs train; nothing may be lost or differ.

    uv run python benchmarks/chaos.py --seed 1 --out benchmarks/results/chaos.json

Now and then everything is killed at once, as when the power fails. Then the same jobs are trained in peace. Prints
kills by what was hit, jobs, attempts, and how many jobs were lost (did not succeed), doubled (two of a job's workers
trained at once, as these witnessed themselves, or two of its attempts were live at once, as the store says) or differ
(from the same job trained in peace, in any bit of metrics or result), and the processes left behind; exit code 0 if
these are 0. Runs on the CPU. Jobs are queued as others end, until there have been `--kills` or `--seconds` are up.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness import about, gpuq, write

from jobs.run_dir import ProcessRecord, Result, read_metrics, read_record
from scheduler import leftovers
from scheduler.background import running_dispatcher
from scheduler.home import Home
from scheduler.process import Identity
from scheduler.records import Attempt
from scheduler.states import Outcome
from scheduler.store import Store
from scheduler.verdict import without_progress

JOB = """
[model]
name = "witness.py:build"
[data]
name = "shapes"
limit = 2500
[train]
epochs = {epochs}
batch_size = 32
checkpoint_every = "{checkpoint_every}"
seed = {seed}
[schedule]
warmup_epochs = 1
[resources]
memory = "1 GiB"  # declared: a dispatcher killed every few seconds would trace for ever
"""
NETWORK = '''
import fcntl
import os

from torch import nn


def build(classes, channels):
    if "GPUQ_ATTEMPT" in os.environ:  # this is a worker, not the process that traces
        bear_witness()
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 7 * 7, classes),
    )


def bear_witness():
    """Hold the job's lock as long as this process lives, and note whether another of the job's workers held it."""
    global lock
    lock = open("lock", "ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        word = "alone"
    except BlockingIOError:
        word = "doubled"
    with open("witness", "a") as file:
        file.write(word + "\\n")
'''
AT_ONCE = 2  # jobs
KINDS = {"dispatcher": 3, "parent": 3, "worker": 4, "everything": 1}  # how often, relative to each other
LEAST_S, MOST_S = 0.5, 5.5  # between two strikes; a worker takes 3 to 4 s to its first step
MERCY = 6  # losses without progress after which a job is spared until it gets further; gpuq gives it up at the tenth
LEARNING = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class Findings:
    """What has become of the jobs, all told."""

    kills: dict[str, int]  # by what was killed; of a power cut, each process counts
    power_cuts: int
    jobs: int
    attempts: int
    resumed: int  # attempts that went on from a checkpoint
    trainings: int  # workers that came as far as to build their network
    lost: int
    doubled: int
    differing: int
    left_behind: int  # processes

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.differing or self.left_behind)


class Torment:
    """Strikes at the processes of a state directory, by one seed."""

    def __init__(self, home: Home, store: Store, epochs: int, seed: int) -> None:
        self.jobs = 0
        self.kills: Counter[str] = Counter()
        self.power_cuts = 0
        self._home = home
        self._store = store
        self._epochs = epochs
        self._random = random.Random(seed)

    def run(self, seconds: float, kills: int) -> None:
        """Strike until it is enough; queue a job where one has ended, start a dispatcher where none is left."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.kills.total() < kills:
            while sum(job.outcome is None for job in self._store.jobs()) < AT_ONCE:
                submit(self._home, [self.jobs], self._epochs, "0s")
                self.jobs += 1
            keep_dispatching(self._home, self._store)
            time.sleep(self._random.uniform(LEAST_S, MOST_S))
            self._strike(*self._random.choices(list(KINDS), list(KINDS.values())))

    def _strike(self, kind: str) -> None:
        dispatcher = running_dispatcher(self._store)
        attempts = self._attempts()
        if kind == "everything":
            self._fail_the_power(dispatcher, attempts)
        elif kind == "dispatcher":
            self._kill(kind, dispatcher)
        elif attempts := self._chosen(attempts):
            self._kill(kind, getattr(self._random.choice(attempts), kind))

    def _fail_the_power(self, dispatcher: Identity | None, attempts: list["Processes"]) -> None:
        if not any(one.is_spared for one in attempts):
            self.power_cuts += 1
            self._kill("dispatcher", dispatcher)
            for one in attempts:
                self._kill("parent", one.parent)
                self._kill("worker", one.worker)

    def _chosen(self, attempts: list["Processes"]) -> list["Processes"]:
        """Those of which one may be hit; of two strikes, one is for a worker that trains already."""
        training_only = self._random.random() < 0.5
        return [one for one in attempts if not one.is_spared and (one.trains or not training_only)]

    def _kill(self, kind: str, target: Identity | None) -> None:
        if target is not None and target.send(signal.SIGKILL):  # else it has just ended by itself
            self.kills[kind] += 1

    def _attempts(self) -> list["Processes"]:
        """The processes of live attempts, as far as they have been started."""
        found = []
        for attempt in self._store.live_attempts():
            files = self._home.run_dir(attempt.job_id)
            one = read_record(files.attempt(attempt.number).process, ProcessRecord)
            if one is not None:
                found.append(
                    Processes(
                        parent=Identity(one.parent_pid, one.parent_start_ticks, one.boot_id),
                        worker=Identity(one.worker_pid, one.worker_start_ticks, one.boot_id),
                        trains=files.attempt(attempt.number).progress.exists() and files.last_checkpoint.exists(),
                        losses=losses_without_progress(self._store.attempts(attempt.job_id)),
                    )
                )
        return found


@dataclass(frozen=True)
class Processes:
    """Of one live attempt."""

    parent: Identity
    worker: Identity
    trains: bool  # and has a checkpoint to go on from
    losses: int  # of its job, before it got any further

    @property
    def is_spared(self) -> bool:
        return not self.trains and self.losses >= MERCY


def losses_without_progress(attempts: list[Attempt]) -> int:
    *earlier, latest = attempts
    return without_progress(earlier, Outcome.LOST, latest.start_step)


def keep_dispatching(home: Home, store: Store) -> None:
    """Start a dispatcher if there is none, and wait until it is at its post."""
    while running_dispatcher(store) is None:
        gpuq(home.path, "start", "--device", "cpu")
        time.sleep(0.5)


def finish(home: Home, store: Store) -> None:
    """Leave the jobs in peace until they have ended."""
    while store.has_unfinished():
        keep_dispatching(home, store)
        time.sleep(1.0)


def submit(home: Home, seeds: Iterable[int], epochs: int, checkpoint_every: str) -> None:
    """Queue a job for each seed."""
    folder = home.path.parent
    (folder / "witness.py").write_text(NETWORK)
    files = []
    for seed in seeds:
        files.append(folder / f"{home.path.name}-{seed}.toml")
        files[-1].write_text(JOB.format(epochs=epochs, checkpoint_every=checkpoint_every, seed=seed))
    gpuq(home.path, "submit", "--no-start", *map(str, files))


def learned(home: Home, job_id: int) -> tuple[Any, ...]:
    """All that a job's training has come to, without what tells of time and memory."""
    files = home.run_dir(job_id)
    lines = [tuple(getattr(line, key) for key in LEARNING) for line in read_metrics(files.metrics)]
    return lines, read_record(files.result, Result)


def witnessed(home: Home, job_id: int) -> list[str]:
    """A word of each of a job's workers that came to train."""
    file = home.run_dir(job_id).path / "witness"
    return file.read_text().split() if file.exists() else []


def overlapping(attempts: list[Attempt]) -> bool:
    """Whether one attempt began before the one before it had ended, by the store's whole seconds."""
    return any(later.started_at < (sooner.ended_at or "9") for sooner, later in pairwise(attempts))


def compare(torment: Torment, tormented: Home, peaceful: Home) -> Findings:
    store = Store(tormented.store)
    ids = [job.id for job in store.jobs()]
    words = {job_id: witnessed(tormented, job_id) for job_id in ids}
    return Findings(
        kills=dict(sorted(torment.kills.items())),
        power_cuts=torment.power_cuts,
        jobs=len(ids),
        attempts=len(store.attempts()),
        resumed=sum(bool(attempt.start_step) for attempt in store.attempts()),
        trainings=sum(map(len, words.values())),
        lost=sum(job.outcome is not Outcome.SUCCEEDED for job in store.jobs()),
        doubled=sum("doubled" in words[job_id] or overlapping(store.attempts(job_id)) for job_id in ids),
        differing=sum(learned(tormented, job_id) != learned(peaceful, job_id) for job_id in ids),
        left_behind=len(list(leftovers.find(tormented.runs))),
    )


def measure(folder: Path, options: argparse.Namespace) -> Findings:
    tormented, peaceful = Home(folder / "tormented").create(), Home(folder / "peaceful").create()
    store = Store(tormented.store)
    with ending(tormented), ending(peaceful):
        torment = Torment(tormented, store, options.epochs, options.seed)
        torment.run(options.seconds, options.kills)
        finish(tormented, store)
        submit(peaceful, range(torment.jobs), options.epochs, "1 epoch")
        gpuq(peaceful.path, "run", "--device", "cpu")
        return compare(torment, tormented, peaceful)


@contextmanager
def ending(home: Home) -> Iterator[None]:
    """Have no dispatcher outlive this, nor its jobs."""
    try:
        yield
    finally:
        gpuq(home.path, "stop")


def show(findings: Findings) -> None:
    by_kind = ", ".join(f"{kind} {count}" for kind, count in findings.kills.items())
    print(f"kills: {sum(findings.kills.values())} ({by_kind}), {findings.power_cuts} times everything at once")
    print(f"jobs: {findings.jobs}, attempts: {findings.attempts}, of these resumed: {findings.resumed}")
    print(
        f"lost: {findings.lost}, doubled: {findings.doubled}, differing: {findings.differing}, "
        f"processes left behind: {findings.left_behind}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--kills", type=int, default=330)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        findings = measure(Path(folder), options)
    show(findings)
    if options.out is not None:
        asked = {key: value for key, value in vars(options).items() if key != "out"}
        took = {"minutes": round((time.monotonic() - began) / 60, 1)}
        write(options.out, {**about(), "options": asked, **took, **asdict(findings)})
    sys.exit(0 if findings.is_right else 1)


if __name__ == "__main__":
    main()
