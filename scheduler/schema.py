"""The store's tables as `schema.sql` has them, and a new store with them."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.run_dir import sync_folder

if TYPE_CHECKING:
    import tempfile

SCHEMA_VERSION = 2


def make_store(path: Path, last_id: int = 0) -> None:
    """Make an empty store, whose jobs get ids after `last_id`, beside its place and link it there.

    It is complete or not there at all. Of several processes that do this at once one is first, and the others take its
    store. In place they would meet over the change to WAL, which fails at once with "database is locked", whatever the
    timeout.
    """
    with folder_beside(path) as folder:
        made = Path(folder) / path.name
        made.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            create_tables(database)
            database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (last_id,))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    sync_folder(path.parent)


def folder_beside(path: Path) -> "tempfile.TemporaryDirectory[str]":
    """For what will take the place of a store; by its name `gpuq clean` knows what a killed process has left of it."""
    import tempfile

    return tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=f".{os.getpid()}.tmp")


def create_tables(database: sqlite3.Connection) -> None:
    """In the transaction that is open, if one is: `executescript` would end it."""
    for statement in _statements():
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def schema_version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _statements() -> Iterator[str]:
    statement = ""
    for line in Path(__file__).with_name("schema.sql").read_text().splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
