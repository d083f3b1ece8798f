"""Stores of older schemas: what the first command that opens one makes of it."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from builders import ORIGIN, MiB, spec
from click.testing import CliRunner

from scheduler import migrations
from scheduler.cli import cli
from scheduler.errors import StoreError
from scheduler.estimate import PRIOR_MARGINS, Basis
from scheduler.home import Home
from scheduler.process import own_identity
from scheduler.schema import SCHEMA_VERSION, make_store, schema_version
from scheduler.states import Outcome, State, Wish
from scheduler.store import Store

GOLDEN = sorted((Path(__file__).parents[1] / "data" / "stores").glob("v*.sql"))
V1 = GOLDEN[0]

OPENERS = 4
OPENER = """
import sys
from pathlib import Path
from scheduler.store import Store

print("ready", flush=True)
sys.stdin.readline()
print(len(Store(Path(sys.argv[1])).jobs()))
"""


def restore_golden(path: Path, golden: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(golden.read_text())


@pytest.fixture
def old(home: Home) -> Home:
    """A state directory with the golden store of schema 1."""
    restore_golden(home.store, V1)
    return home


@pytest.fixture
def migrated(old: Home) -> Iterator[Store]:
    store = Store(old.store)
    yield store
    store.close()


def shape(path: Path) -> set[tuple[str, str, str | None]]:
    with closing(sqlite3.connect(path)) as database:
        return set(database.execute("SELECT type, name, sql FROM sqlite_master"))


def content(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def backups(home: Home) -> list[Path]:
    return list(home.path.glob("gpuq.db.v*.bak"))


def test_there_is_a_golden_store_of_every_older_schema() -> None:
    assert [path.name for path in GOLDEN] == [f"v{version}.sql" for version in range(1, SCHEMA_VERSION)]
    assert sorted(migrations.NEW_COLUMNS) == list(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_migrated_store_has_exactly_the_schema_of_a_fresh_one(home: Home, golden: Path) -> None:
    restore_golden(home.store, golden)
    fresh = home.path / "fresh.db"
    make_store(fresh)
    Store(home.store).close()
    assert shape(home.store) == shape(fresh)
    with closing(sqlite3.connect(home.store)) as database:
        assert schema_version(database) == SCHEMA_VERSION
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_all_jobs_are_there_as_they_were(migrated: Store) -> None:
    assert [(job.name, job.state, job.outcome) for job in migrated.jobs()] == [
        ("succeeded", State.FINISHED, Outcome.SUCCEEDED),
        ("failed", State.FINISHED, Outcome.FAILED),
        ("out-of-memory", State.FINISHED, Outcome.OUT_OF_MEMORY),
        ("cancelled", State.FINISHED, Outcome.CANCELLED),
        ("stopped", State.QUEUED, None),
        ("running", State.RUNNING, None),
        ("starting", State.STARTING, None),
        ("queued", State.QUEUED, None),
        ("lost", State.QUEUED, None),
        ("timed-out", State.FINISHED, Outcome.TIMED_OUT),
    ]
    assert migrated.job(6).wish is Wish.CANCEL
    assert (migrated.job(9).forgiven_attempts, migrated.job(7).priority) == (1, 3)


def test_status_shows_them(old: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_HOME", str(old.path))
    shown = CliRunner().invoke(cli, ["status", "--json", "--device", "cpu"], catch_exceptions=False)
    assert shown.exit_code == 0
    jobs = json.loads(shown.output)["jobs"]
    assert [len(job["attempts"]) for job in jobs] == [1, 2, 1, 0, 1, 1, 1, 0, 1, 1]
    assert [job["epoch"] for job in jobs[:2]] == [10, 0]


def test_steps_are_told_from_epochs(migrated: Store) -> None:
    assert [(job.step, job.steps) for job in migrated.jobs([1, 5, 8])] == [(1000, 1000), (200, 1000), (0, None)]


@pytest.mark.parametrize("table", ["metrics", "events"])
def test_metrics_and_events_stay(old: Home, table: str) -> None:
    before = content(old.store, table)
    Store(old.store).close()
    assert before
    assert content(old.store, table) == before


def test_attempts_stay_and_say_that_their_prediction_is_unknown(migrated: Store) -> None:
    attempts = migrated.attempts()
    assert [(one.job_id, one.number) for one in attempts] == [
        *((1, 1), (2, 1), (2, 2), (3, 1), (5, 1), (6, 1), (7, 1), (9, 1), (10, 1))
    ]
    assert {(one.device_kind, one.device_name, one.predicted_bytes, one.shows_peak) for one in attempts} == {
        ("", "", 0, False)
    }
    assert (attempts[0].peak_bytes, attempts[0].reservation_bytes) == (395 * MiB, 460 * MiB)
    assert [one.basis for one in attempts if one.job_id in (6, 9)] == [Basis.MEASURED, Basis.MODELLED]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_attempts_of_unknown_devices_teach_nothing(migrated: Store, kind: str) -> None:
    history = migrated.history(kind, "")
    assert {basis: list(ratios) for basis, ratios in history.ratios.items()} == {basis: [] for basis in PRIOR_MARGINS}
    assert (history.peak_bytes, history.exceeded_bytes) == ({}, {})


def test_an_id_is_not_given_twice(old: Home) -> None:
    with closing(sqlite3.connect(old.store, isolation_level=None)) as database:
        database.execute("UPDATE sqlite_sequence SET seq = 41 WHERE name = 'jobs'")
    store = Store(old.store)
    assert store.submit([spec()], ORIGIN)[0] == [42]
    store.close()


def test_the_store_is_copied_as_it_was_for_its_owner_alone(old: Home) -> None:
    with closing(sqlite3.connect(old.store)) as database:
        before = list(database.iterdump())
    Store(old.store, now=lambda: "2026-11-22T08:30:00Z").close()
    [backup] = backups(old)
    assert backup.name == "gpuq.db.v1-2026-11-22T083000Z.bak"
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as database:
        assert (schema_version(database), list(database.iterdump())) == (1, before)


def test_a_migration_that_fails_leaves_the_store_as_it_was(old: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(old.store)) as database:
        before = list(database.iterdump())
    monkeypatch.setitem(migrations.NEW_COLUMNS, 1, {"attempts": {"device_kind": "NULL"}})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="cannot be used"):
        Store(old.store)
    with closing(sqlite3.connect(old.store)) as database:
        assert (schema_version(database), list(database.iterdump())) == (1, before)


def test_a_store_that_an_older_dispatcher_uses_is_left_alone(old: Home) -> None:
    own = own_identity()
    with closing(sqlite3.connect(old.store, isolation_level=None)) as database:
        database.execute(
            "UPDATE dispatcher SET pid = ?, start_ticks = ?, boot_id = ?", (own.pid, own.start_ticks, own.boot_id)
        )
    with pytest.raises(StoreError, match=rf"older gpuq, whose dispatcher still runs: stop it \(kill {own.pid}\)"):
        Store(old.store)
    assert backups(old) == []


def test_several_commands_at_once_migrate_once(old: Home) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-P", "-c", OPENER, str(old.store)]
    openers = [subprocess.Popen(command, text=True, **pipes) for _ in range(OPENERS)]  # type: ignore[call-overload]
    for one in openers:
        assert one.stdout.readline() == "ready\n"
    for one in openers:
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.communicate(timeout=60) for one in openers] == [("10\n", "")] * OPENERS
    assert len(backups(old)) == 1
