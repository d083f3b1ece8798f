"""Submit thousands of mutated job files: each batch is queued as a whole, or refused with lines that name its files.

    uv run python benchmarks/fuzz_job_files.py --files 10000 --seed 1 --out benchmarks/results/fuzz.json

Most go through the function that `gpuq submit` calls, into a real store; every 200th batch through `gpuq submit`
itself. Whatever was queued is read back, from its run directory as well, and shown as `gpuq status` does. Prints
counts, and what broke with its number, which `--only` repeats; exit code 0 if nothing did.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from harness import about, write
from job_file_mutations import hostile_name, mutated, seeds
from rich.console import Console, RenderableType

from jobs.errors import InputError
from jobs.job_file import read_job_files
from jobs.spec import JobSpec, decode, encode
from scheduler import render
from scheduler.device import CpuDevice
from scheduler.home import Home
from scheduler.status import report
from scheduler.store import Store
from scheduler.submission import submit_files

ROOT = Path(__file__).parents[1]
GPUQ = (sys.executable, "-P", "-m", "scheduler.cli")
SIZES = (1, 1, 1, 2, 3, 4)  # of batches, in files
BATCHES_PER_STORE = 50  # a store of very many jobs would make all of them slow
REAL_EVERY = 200
LIMIT_S = 60.0  # for one batch, on a busy machine
ODD_NETWORK = "\x1b[2J\n.py"  # its name
SHOWN = 3  # jobs of a batch


class BrokenError(Exception):
    """gpuq did something with a batch that it must never do."""


class Fuzz:
    """Batches of mutated files, and what became of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.counts = Counter(dict.fromkeys(("files", "batches", "accepted", "jobs", "refused", "lines"), 0))
        self.broken: list[str] = []
        self._seed = seed
        self._folder = folder
        self._files = seeds(ROOT)
        self._number_of_store = -1

    def batch(self, number: int, most_files: int) -> int:
        """Make, submit and judge a batch; how many files it had."""
        chance = random.Random(f"{self._seed}/{number}")
        store = self._store(number)
        with self._written(chance, min(most_files, chance.choice(SIZES))) as paths:
            began = time.monotonic()
            try:
                submit = self._submit_for_real if number % REAL_EVERY == 0 else self._submit
                submit(store, paths)
                if time.monotonic() - began > LIMIT_S:
                    raise BrokenError(f"took {time.monotonic() - began:.0f} s")
            except Exception as error:
                why = str(error) if isinstance(error, BrokenError) else traceback.format_exc()
                self.broken.append(f"batch {number}: {why}")
            store.close()
            self.counts["batches"] += 1
            self.counts["files"] += len(paths)
            return len(paths)

    def _store(self, number: int) -> Store:
        if number // BATCHES_PER_STORE != self._number_of_store:
            self._number_of_store = number // BATCHES_PER_STORE
            shutil.rmtree(self._folder / "home", ignore_errors=True)
        self._home = Home(self._folder / "home").create()
        return Store(self._home.store)

    @contextlib.contextmanager
    def _written(self, chance: random.Random, count: int) -> Iterator[list[Path]]:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name) / chance.choice(("study", "study", "study", "\udcff", "a\nb"))
            folder.mkdir()
            paths = [folder / hostile_name(chance) for _ in range(count)]
            for path in paths:
                path.write_bytes(mutated(chance, self._files))
            (folder / ODD_NETWORK).write_text("def build(classes, channels): ...")
            yield paths

    def _submit(self, store: Store, paths: Sequence[Path]) -> None:
        before = len(store.jobs())
        try:
            told = submit_files(self._home, paths, start=False, device="cpu", memory_bytes=None)
        except InputError as error:
            self._judge_refusal(store, before, paths, error.lines)
        else:
            self._judge_jobs(store, before, paths, [job.id for job in told.jobs])

    def _submit_for_real(self, store: Store, paths: Sequence[Path]) -> None:
        before = len(store.jobs())
        command = [*GPUQ, "submit", "--no-start", "--quiet", "--", *map(str, paths)]
        environment = {**os.environ, "GPUQ_HOME": str(self._home.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.counts["real processes"] += 1
        if done.returncode == InputError.exit_code and not done.stdout:
            lines = [line.removeprefix("gpuq: ") for line in done.stderr.splitlines()]
            self._judge_refusal(store, before, paths, lines)
        elif done.returncode or done.stderr:
            raise BrokenError(f"exit code {done.returncode}: {done.stderr}")
        else:
            self._judge_jobs(store, before, paths, [int(line) for line in done.stdout.split()])

    def _judge_refusal(self, store: Store, before: int, paths: Sequence[Path], lines: Sequence[str]) -> None:
        """Nothing was queued; every line names a file, then what is wrong with it, on one line of a terminal."""
        if len(store.jobs()) != before:
            raise BrokenError(f"refused, and queued {len(store.jobs()) - before} jobs")
        if _jobs_of(paths) is not None:
            raise BrokenError("refused, though each file is right")
        names = tuple(f"{_on_a_terminal(str(path))}: " for path in paths)
        for line in lines:
            if not line.isprintable() or not line.startswith(names):
                raise BrokenError(f"a line that names no file: {line!r}")
        self.counts["refused"] += 1
        self.counts["lines"] += len(lines)

    def _judge_jobs(self, store: Store, before: int, paths: Sequence[Path], ids: Sequence[int]) -> None:
        """All of all files were queued, and can be read back from the store and their run directories, and shown."""
        jobs = store.jobs()
        if [job.id for job in jobs[before:]] != list(ids) or len(ids) != _jobs_of(paths):
            raise BrokenError(f"{_jobs_of(paths)} jobs, queued {len(jobs) - before}, and told of {len(ids)}")
        for job in jobs[before:]:
            if not _survives(job.spec) or self._home.run_dir(job.id).read_spec() != job.spec:
                raise BrokenError(f"job {job.id} is not what was asked for")
        told = report(self._home, store, CpuDevice(), datetime.now(UTC), store.jobs(ids[:SHOWN]))
        shown = _shown(render.status(told), *(render.job_details(job, []) for job in told.jobs))
        if not shown.replace("\n", "").isprintable():
            raise BrokenError(f"a terminal would take this for more than text: {shown!r}")
        self.counts["accepted"] += 1
        self.counts["jobs"] += len(ids)


def _shown(*parts: RenderableType) -> str:
    text = StringIO()
    Console(file=text, width=100).print(*parts)
    return text.getvalue()


def _jobs_of(paths: Sequence[Path]) -> int | None:
    """How many jobs the files hold, each read by itself; None if one of them is wrong."""
    try:
        return sum(len(read_job_files([path])) for path in paths)
    except InputError:
        return None


def _survives(spec: JobSpec) -> bool:
    return decode(encode(spec)) == spec


def _on_a_terminal(path: str) -> str:
    """A path in which whatever cannot be printed is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one batch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fuzz = Fuzz(options.seed, Path(folder))
        number, files = options.only or 0, 0
        while files < options.files and options.only in (None, number):
            files += fuzz.batch(number, options.files - files)
            number += 1
        os.chdir(ROOT)
    print("\n".join(fuzz.broken))
    print(", ".join(f"{name} {count}" for name, count in fuzz.counts.items()), f"broken {len(fuzz.broken)}", sep=", ")
    if options.out is not None:
        write(options.out, {**about(), "seed": options.seed, **fuzz.counts, "broken": fuzz.broken})
    sys.exit(1 if fuzz.broken else 0)


if __name__ == "__main__":
    main()
