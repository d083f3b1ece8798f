"""`gpuq clean`: finished jobs go, with all their files, and nobody else's."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from builders import NOON, ORIGIN, prediction, spec
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scratch import scratch_folder

from jobs.errors import GpuqError
from jobs.run_dir import write_atomically
from scheduler import cleaning
from scheduler.cleaning import choose, clean, disk_bytes, leftovers
from scheduler.cli import cli
from scheduler.errors import UnknownJobError
from scheduler.home import Home
from scheduler.states import Outcome, State
from scheduler.store import Store

DAY_S = 86_400.0
NOON_S = datetime.fromisoformat(NOON).timestamp()
Rows = Callable[[str], list[tuple[object, ...]]]


def finished(home: Home, store: Store) -> int:
    """A job that has ended, with an attempt and files."""
    job_id = queued(store)
    store.place(job_id, 1, prediction())
    store.end_attempt(store.live_attempts()[-1], Outcome.FAILED, "why", requeue=False, exit_code=1, peak_bytes=1)
    files = home.run_dir(job_id)
    files.create(spec())
    write_atomically(files.last_checkpoint, b"x" * 100_000)
    return job_id


def queued(store: Store) -> int:
    return store.submit([spec()], ORIGIN)[0][0]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# -- which jobs -----------------------------------------------------------------------------------------------------


def test_jobs_are_chosen_by_id(home: Home, store: Store) -> None:
    first, _, third = finished(home, store), finished(home, store), finished(home, store)
    assert choose(store, [first, third], None) == [first, third]


def test_without_ids_and_age_none_is_chosen(home: Home, store: Store) -> None:
    finished(home, store)
    assert choose(store, None, None) == []


def test_an_unfinished_job_that_was_named_is_refused(home: Home, store: Store) -> None:
    done, waiting = finished(home, store), queued(store)
    with pytest.raises(GpuqError, match=rf"job {waiting} has not ended, it is queued") as refusal:
        choose(store, [done, waiting], None)
    assert refusal.value.exit_code == 1


def test_an_unknown_job_is_refused(store: Store) -> None:
    with pytest.raises(UnknownJobError):
        choose(store, [7], None)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(ages=st.lists(st.integers(0, 60), min_size=1, max_size=5), limit=st.integers(0, 60))
def test_by_age_exactly_the_finished_jobs_that_ended_longer_ago_are_chosen(ages: list[int], limit: int) -> None:
    with scratch_folder() as folder:
        home = Home(Path(folder))
        store = Store(home.store, now=lambda: NOON)
        done = [finished(home, store) for _ in ages]
        queued(store)
        now = NOON_S + 60 * DAY_S
        for job_id, age in zip(done, ages, strict=True):
            ended_at = cleaning.as_utc(now - age * DAY_S)
            store._db.execute("UPDATE jobs SET finished_at = ? WHERE id = ?", (ended_at, job_id))
        expected = [job_id for job_id, age in zip(done, ages, strict=True) if age > limit]
        assert choose(store, None, limit * DAY_S, now=lambda: now) == expected
        store.close()


# -- what goes ------------------------------------------------------------------------------------------------------


def test_a_job_goes_with_its_files_and_all_its_rows(home: Home, store: Store, rows: Rows) -> None:
    gone, stays = finished(home, store), finished(home, store)
    clean(home, store, [gone])
    assert [path.name for path in home.runs.iterdir()] == [str(stays)]
    for table in ("attempts", "events"):
        assert {row[0] for row in rows(f"SELECT job_id FROM {table}")} == {stays}
    assert [job.id for job in store.jobs()] == [stays]
    assert list(home.removed.iterdir()) == []


def test_the_bytes_freed_are_those_on_disk(home: Home, store: Store) -> None:
    job_id = finished(home, store)
    expected = disk_bytes(home.run_dir(job_id).path)
    assert expected >= 100_000
    assert clean(home, store, [job_id]).bytes == expected


def test_a_dry_run_says_the_same_and_removes_nothing(home: Home, store: Store) -> None:
    job_id = finished(home, store)
    (home.path / f".a.json.{dead_pid()}.tmp").write_text("x")
    planned = clean(home, store, [job_id], dry_run=True)
    assert home.run_dir(job_id).last_checkpoint.exists()
    assert clean(home, store, [job_id]) == planned


def test_a_job_that_is_tried_again_meanwhile_stays(home: Home, store: Store) -> None:
    job_id = finished(home, store)
    store.retry(job_id)
    assert clean(home, store, [job_id]).jobs == []
    assert store.job(job_id).state is State.QUEUED
    assert home.run_dir(job_id).last_checkpoint.exists()


def test_a_job_without_a_run_directory_goes(home: Home, store: Store) -> None:
    job_id = queued(store)
    store.cancel(job_id)
    assert clean(home, store, [job_id]).jobs == [job_id]
    assert store.jobs() == []


def test_the_id_of_a_removed_job_is_not_given_again(home: Home, store: Store) -> None:
    job_id = finished(home, store)
    clean(home, store, [job_id])
    assert queued(store) == job_id + 1


# -- killed in between ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["_set_aside", "_delete", "make_private_folder"])
def test_what_a_kill_leaves_a_second_clean_finishes(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    gone, stays = finished(home, store), finished(home, store)
    original = getattr(cleaning, victim)

    def killed_after(*arguments: object) -> None:
        original(*arguments) if victim != "_delete" else None
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cleaning, victim, killed_after)
        with pytest.raises(KeyboardInterrupt):
            clean(home, store, [gone])
    clean(home, store, [job.id for job in store.jobs() if job.id == gone])
    assert [job.id for job in store.jobs()] == [stays]
    assert [path.name for path in home.runs.iterdir()] == [str(stays)]
    assert list(home.removed.iterdir()) == []
    assert home.run_dir(stays).last_checkpoint.exists()


def test_unfinished_writes_of_dead_processes_go(home: Home, store: Store) -> None:
    job_id = finished(home, store)
    store.retry(job_id)
    unfinished = home.run_dir(job_id).path / "checkpoints" / f".last.pt.{dead_pid()}.tmp"
    unfinished.write_bytes(b"x" * 5000)
    assert clean(home, store, []).leftovers == 1
    assert not unfinished.exists()
    assert home.run_dir(job_id).last_checkpoint.exists()


@pytest.mark.parametrize("name", [f".last.pt.{os.getpid()}.tmp", "last.pt.1.tmp", ".last.pt.tmp", ".last.pt.x.tmp"])
def test_what_a_living_process_writes_stays_and_what_is_named_otherwise(home: Home, name: str) -> None:
    (home.path / name).write_text("x")
    assert list(leftovers(home)) == []


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("GPUQ_HOME", str(home.path))
    return lambda *arguments: CliRunner().invoke(cli, ["clean", *arguments], catch_exceptions=False).output


def test_the_command_says_what_it_removed(home: Home, store: Store, run: Callable[..., str]) -> None:
    for _ in range(3):
        finished(home, store)
    assert run("1-2", "--dry-run").startswith("would remove jobs 1-2: ")
    assert run("1-2").startswith("removed jobs 1-2: ")
    assert run() == "removed no jobs: 0 B\n"


def test_the_command_takes_an_age(home: Home, store: Store, run: Callable[..., str]) -> None:
    finished(home, store)
    assert run("--older-than", "30d") == "removed no jobs: 0 B\n"
    assert "expected a duration" in run("--older-than", "a month")
