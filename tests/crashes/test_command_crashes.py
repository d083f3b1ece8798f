"""SIGKILL of a command while it changes the store or the files beside it: all is done, or nothing, and can be again.

All points: `pytest tests/crashes -m "slow or not slow"`.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from crash_point import AFTER, CrashPoint
from crash_table import (
    CLEANING,
    DISPATCHING,
    MAKING,
    MIGRATING,
    REBUILDING,
    SUBMITTING,
    WISHING,
    place,
    some_now_all_when_slow,
)
from night import KILLED, SMALL, TOO_LARGE, Night, Zygote

from scheduler.cleaning import leftovers
from scheduler.states import Outcome, State

GOLDEN = Path(__file__).parents[1] / "data" / "stores" / "v1.sql"
SUBMIT = place("scheduler.store:Store.submit > _transaction")
TIMES = {"at", "submitted_at", "started_at", "ended_at", "finished_at", "paused_at", "submitted_from"}


def rows(night: Night) -> dict[str, list[dict[str, Any]]]:
    """All that is in the store, but for times."""
    with closing(sqlite3.connect(night.home.store)) as store:
        store.row_factory = sqlite3.Row
        [check] = store.execute("PRAGMA integrity_check").fetchone()
        assert check == "ok"
        tables = ("jobs", "attempts", "metrics", "events", "queue_pause")
        read = {table: store.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    return {table: [_without_times(row) for row in read[table]] for table in read}


def _without_times(row: sqlite3.Row) -> dict[str, Any]:
    return {key: value for key, value in dict(row).items() if key not in TIMES}


@pytest.fixture
def other(folder: Path, zygote: Zygote) -> Night:
    """The same, undisturbed."""
    (folder / "other").mkdir()
    return Night(folder / "other", zygote)


def assert_nothing_lies_about(night: Night) -> None:
    """What the crash has left, `gpuq clean` removes."""
    assert night.gpuq("clean") == 0, night.said()
    assert list(night.home.path.rglob(".*")) == []


# -- submitting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", some_now_all_when_slow((*MAKING, *SUBMITTING)))
def test_a_batch_is_queued_or_not(night: Night, point: CrashPoint) -> None:
    night.write(SMALL, SMALL)
    assert night.gpuq("submit", "--no-start", "job0.toml", "job1.toml", crash=point) == KILLED, night.said()
    assert night.gpuq("status") == 0, night.said()
    queued = len(night.jobs())
    committed = point.place.caller.startswith("scheduler.copies") or (point.place == SUBMIT and point.when == AFTER)
    assert queued == (2 if committed else 0)
    assert night.gpuq("submit", "--no-start", "job0.toml", "job1.toml") == 0, night.said()
    assert [job.id for job in night.jobs()] == list(range(1, queued + 3))
    assert_nothing_lies_about(night)


@pytest.mark.parametrize("point", some_now_all_when_slow(DISPATCHING))
def test_what_was_queued_waits_for_a_dispatcher(night: Night, point: CrashPoint) -> None:
    night.write(TOO_LARGE)
    assert night.gpuq("submit", "--device", "cpu", "job0.toml", crash=point) == KILLED, night.said()
    night.run()
    night.assert_in_order(Outcome.FAILED)
    night.gpuq("stop")


# -- wishes -----------------------------------------------------------------------------------------------------


def prepare(night: Night) -> None:
    """Job 1 is queued, 2 cancelled, 3 paused."""
    night.submit(SMALL, SMALL, SMALL)
    assert night.gpuq("cancel", "2") == night.gpuq("pause", "3") == 0, night.said()


@pytest.mark.parametrize("point", some_now_all_when_slow(WISHING))
def test_a_wish_is_granted_or_not(night: Night, other: Night, point: CrashPoint) -> None:
    command = WISHING[str(point.place)]
    for one in (night, other):
        prepare(one)
        if command[:2] == ("resume", "--all"):
            assert one.gpuq("pause", "--all") == 0, one.said()
    assert other.gpuq(*command) == 0, other.said()
    before, granted = rows(night), rows(other)
    assert before != granted
    assert night.gpuq(*command, crash=point) == KILLED, night.said()
    assert rows(night) == (granted if point.when == AFTER else before)
    if point.when != AFTER:
        assert night.gpuq(*command) == 0, night.said()
    assert rows(night) == granted


@pytest.mark.parametrize("point", some_now_all_when_slow(CLEANING))
def test_a_job_is_removed_or_not(night: Night, point: CrashPoint) -> None:
    prepare(night)
    (night.home.path / ".record.json.4194305.tmp").touch()  # of a process that cannot be: see proc_sys_kernel(5)
    assert night.gpuq("clean", "2", crash=point) == KILLED, night.said()
    night.gpuq("clean", "2")  # refused if it is gone already
    assert night.gpuq("clean") == 0, night.said()
    assert [job.id for job in night.jobs()] == [1, 3]
    assert night.home.run_ids() == [1, 3]
    assert list(leftovers(night.home)) == []


# -- the whole store --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", some_now_all_when_slow(REBUILDING))
def test_a_damaged_store_is_rebuilt_or_can_be(night: Night, point: CrashPoint) -> None:
    prepare(night)
    night.home.store.write_bytes(b"damaged" + night.home.store.read_bytes()[7:])
    damaged = night.home.store.read_bytes()
    assert night.call("commands:rebuild", str(night.home.path), crash=point) == KILLED, night.said()
    assert night.call("commands:rebuild", str(night.home.path)) in (0, 1), night.said()  # 1: it is in order
    assert [job.id for job in night.jobs()] == [1, 2, 3]
    assert all(job.state is State.QUEUED for job in night.jobs())
    assert damaged in [path.read_bytes() for path in night.home.path.glob("gpuq.db.damaged-*")]
    assert_nothing_lies_about(night)


@pytest.mark.parametrize("point", some_now_all_when_slow(MIGRATING))
def test_an_older_store_is_migrated_or_as_it_was(night: Night, other: Night, point: CrashPoint) -> None:
    for one in (night, other):
        one.home.create()
        with closing(sqlite3.connect(one.home.store)) as store:
            store.execute("PRAGMA journal_mode = WAL")
            store.executescript(GOLDEN.read_text())
    assert other.gpuq("status") == 0, other.said()
    assert night.gpuq("status", crash=point) == KILLED, night.said()
    with closing(sqlite3.connect(night.home.store)) as store:
        [version] = store.execute("PRAGMA user_version").fetchone()
    assert version == (2 if point.place.callee == "_transaction" and point.when == AFTER else 1)
    assert night.gpuq("status") == 0, night.said()
    assert rows(night) == rows(other)
    assert_nothing_lies_about(night)
