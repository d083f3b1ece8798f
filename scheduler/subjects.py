"""What the words after `gpuq probe` and `gpuq plot` mean: jobs by id, or job files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from jobs.errors import CheckpointError, DamagedCheckpointError, GpuqError, InputError, in_words
from jobs.job_file import read_job_files
from jobs.run_dir import RunDir
from jobs.spec import JobSpec
from scheduler.cli_types import MAX_RANGE, parse_ids
from scheduler.device import choose_device
from scheduler.home import Home
from scheduler.store import Store

if TYPE_CHECKING:
    from jobs.diagnostics.subject import Subject


class Choice(Struct, frozen=True, kw_only=True):
    """A job to look at. Without a run directory it is one of a file, and its weights are fresh."""

    title: str
    spec: JobSpec
    files: RunDir | None = None


def choose(home: Home, words: Sequence[str]) -> list[Choice]:
    """The jobs that ids, ranges of ids and job files name. Raises UnknownJobError and InputError."""
    store = Store(home.store)
    return [choice for word in words for choice in _choose(home, store, word)]


def _choose(home: Home, store: Store, word: str) -> Iterator[Choice]:
    ids = parse_ids(word)
    if ids is None:
        for _, spec in read_job_files([Path(word)]):
            yield Choice(title=spec.name, spec=spec)
        return
    if not 1 <= len(ids) <= MAX_RANGE:
        raise InputError([f"{word}: not a range of ids, such as 3-9"])
    for job in store.jobs(ids):
        yield Choice(title=f"{job.id} {job.name}", spec=job.spec, files=home.run_dir(job.id))


def load(home: Home, choices: Iterable[Choice], device: str) -> "Iterator[Subject]":
    """Each job's network and data, one after the other, on a device such as "cpu" or "cuda".

    Raises GpuqError for a job that has not trained yet, and what is wrong with its data, network or checkpoint.
    """
    import torch

    from jobs.diagnostics.subject import load_subject

    chosen = torch.device(choose_device(device).torch_device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError([f"--device {device}: torch sees no GPU here"])
    for choice in choices:
        weights = None if choice.files is None else weights_of(choice.files, choice.title)
        try:
            with in_one_line(choice.title):
                subject = load_subject(choice.title, choice.spec, weights, chosen, home.cache)
        except DamagedCheckpointError as error:
            raise GpuqError(f"{error}; {_way_out(choice)}") from error
        yield subject


@contextmanager
def in_one_line(title: str) -> Iterator[None]:
    """Whatever a network or its data raise becomes a GpuqError of one line that names the job."""
    try:
        yield
    except CheckpointError:  # it names its file
        raise
    except (Exception, SystemExit) as error:  # a network of a user's file may raise anything
        raise GpuqError(f"{title}: {in_words(error)}") from error


def weights_of(files: RunDir, title: str) -> Path:
    """The checkpoint to look at: the best weights, else those of the last checkpoint there is. Raises GpuqError."""
    refuse_lost(files, title)
    if checkpoints := _checkpoints(files):
        return checkpoints[0]
    raise GpuqError(f"job {title} has no checkpoint: it has not trained yet; its job file shows it with fresh weights")


def _checkpoints(files: RunDir) -> list[Path]:
    wanted = (files.best_checkpoint, files.last_checkpoint, files.previous_checkpoint)
    return [checkpoint for checkpoint in wanted if checkpoint.exists()]


def _way_out(choice: Choice) -> str:
    """What to do about a damaged checkpoint: look at the next best."""
    others = [] if choice.files is None else _checkpoints(choice.files)[1:]
    return f"remove it to look at {others[0].name}" if others else "its job file shows it with fresh weights"


def refuse_lost(files: RunDir, title: str) -> None:
    """Tell a job whose run directory somebody removed from one that has nothing yet. Raises GpuqError."""
    if not files.path.is_dir():
        raise GpuqError(
            f"job {title}: {files.path} is not there, and with it all that it trained; submit its file again"
        )
