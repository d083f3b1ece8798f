"""Stores that an older gpuq wrote, brought to the schema of this one after a copy.

The tables are made anew from `schema.sql`, so that a migrated store is like a fresh one, and the rows are copied by the
columns that both have. What is new and has no default is listed here, by the version that lacks it.
"""

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from jobs.run_dir import sync_folder
from scheduler.errors import StoreError
from scheduler.process import Identity
from scheduler.schema import create_tables, schema_version

# Version → table → new column → its value, an SQL expression over `old`, the row as it was. Version 1 trained by
# epochs, with a line of metrics each. Of its attempts' memory it kept neither device nor prediction: an empty device
# and 0 bytes keep them from counting as measurements (`measurements` and `ratios` in schema.sql).
NEW_COLUMNS: Mapping[int, Mapping[str, Mapping[str, str]]] = {
    1: {
        "jobs": {
            "step": "coalesce((SELECT max(step) FROM old_metrics WHERE job_id = old.id AND epoch <= old.epoch), 0)",
            "steps": "(SELECT max(step) / epoch * json_extract(old.spec, '$.train.epochs') "
            "FROM old_metrics WHERE job_id = old.id)",
        },
        "attempts": {
            "device_kind": "''",
            "device_name": "''",
            "predicted_bytes": "0",
            "basis": "coalesce((SELECT json_extract(estimate, '$.basis') FROM old_jobs WHERE id = old.job_id), "
            "'modelled')",
        },
    },
}

IDS = "sqlite_sequence"  # SQLite's own: the last id of a job, so that none is given twice


def migrate(database: sqlite3.Connection, path: Path, now: str) -> None:
    """Bring an older store to this gpuq's schema, in the write transaction that is open, once `path` has been copied.

    Foreign keys are to be off. Whoever waited for the lock while another process migrated finds nothing to do. Raises
    StoreError while a dispatcher of the older gpuq runs.
    """
    version = schema_version(database)
    if version not in NEW_COLUMNS:
        return
    _refuse_while_dispatched(database, path)
    _copy(path, path.with_name(f"{path.name}.v{version}-{now.replace(':', '')}.bak"))
    tables = _names(database, "table")
    for table in (*tables, IDS):
        database.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM main.{table}")
    _drop_all(database)
    create_tables(database)
    for table in tables:
        _fill(database, table, NEW_COLUMNS[version].get(table, {}))
    database.execute(f"DELETE FROM {IDS}")  # what filling the tables has left there
    _fill(database, IDS, {})
    for table in (*tables, IDS):
        database.execute(f"DROP TABLE temp.old_{table}")


def _drop_all(database: sqlite3.Connection) -> None:
    for kind in ("view", "table"):
        for name in _names(database, kind):
            database.execute(f"DROP {kind} main.{name}")


def _fill(database: sqlite3.Connection, table: str, new_columns: Mapping[str, str]) -> None:
    """Take over the rows of `old_<table>`, by the columns that both have, and the new ones as they are given."""
    kept = [name for name in _columns(database, "main", table) if name in _columns(database, "temp", f"old_{table}")]
    values = {name: f"old.{name}" for name in kept} | dict(new_columns)
    names, expressions = ", ".join(values), ", ".join(values.values())
    database.execute(f"INSERT INTO main.{table} ({names}) SELECT {expressions} FROM temp.old_{table} AS old")


def _names(database: sqlite3.Connection, kind: str) -> list[str]:
    """The store's tables or views, without SQLite's own."""
    query = "SELECT name FROM main.sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'"
    return [row[0] for row in database.execute(query, (kind,)).fetchall()]


def _columns(database: sqlite3.Connection, schema: str, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA {schema}.table_info({table})").fetchall()]


def _refuse_while_dispatched(database: sqlite3.Connection, path: Path) -> None:
    row = database.execute("SELECT pid, start_ticks, boot_id FROM dispatcher").fetchone()
    if row is not None and Identity(*row).is_alive():
        raise StoreError(
            f"{path}: belongs to an older gpuq, whose dispatcher still runs: stop it (kill {row[0]}), then go on here"
        )


def _copy(path: Path, copy: Path) -> None:
    """Another connection reads the store as it is; the open transaction keeps others from writing meanwhile."""
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    temporary.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(temporary)) as target:
        source.backup(target)
    temporary.replace(copy)
    sync_folder(copy.parent)
