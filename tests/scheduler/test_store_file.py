"""The store as a file: whose it is, who may share it, and when it is refused."""

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import NOON, ORIGIN, spec
from waiting import eventually

from scheduler.errors import DamagedStoreError, StoreError
from scheduler.home import Home
from scheduler.store import SCHEMA_VERSION, Store

SUBMITTERS, BATCHES, BATCH = 10, 5, 3

SUBMITTER = f"""
import json, sys
from pathlib import Path
from builders import ORIGIN, spec
from scheduler.store import Store

print("ready", flush=True)
sys.stdin.readline()
store = Store(Path(sys.argv[1]))
ids = []
for _ in range({BATCHES}):
    ids.append(store.submit([spec()] * {BATCH}, ORIGIN)[0])
    store.cancel(ids[-1][0])  # reads before it writes
print(json.dumps(ids))
"""

READER = f"""
import sys
from pathlib import Path
from scheduler.store import Store

print("ready", flush=True)
sys.stdin.readline()
store, seen = Store(Path(sys.argv[1])), 0
for _ in range(100):
    before, seen = seen, len(store.jobs())
    assert seen >= before, "a job that was there is gone"
    assert seen % {BATCH} == 0, "half a batch is there"
"""


class Process(subprocess.Popen[str]):
    """A script that says when it is ready, and goes on when told to."""

    def __init__(self, script: str, path: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent, text=True, **pipes)

    def await_ready(self) -> None:
        assert self.stdout is not None
        assert self.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.stdin is not None
        self.stdin.write("go\n")
        self.stdin.flush()


@pytest.fixture
def start() -> Iterator[Callable[[str, Path], Process]]:
    """Starts processes that do not outlive the test."""
    started: list[Process] = []

    def start_one(script: str, path: Path) -> Process:
        started.append(Process(script, path))
        return started[-1]

    yield start_one
    for one in started:
        one.kill()
        one.communicate()


def test_the_file_and_its_companions_are_their_owners_alone(home: Home, store: Store) -> None:
    store.submit([spec()], ORIGIN)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in home.path.glob("gpuq.db*")}
    assert modes == {"gpuq.db": "0o600", "gpuq.db-wal": "0o600", "gpuq.db-shm": "0o600"}


def test_jobs_and_the_count_of_ids_survive_reopening(home: Home) -> None:
    first = Store(home.store)
    first.submit([spec("a"), spec("b")], ORIGIN)
    first.close()
    second = Store(home.store)
    assert [job.name for job in second.jobs()] == ["a", "b"]
    assert second.submit([spec("c")], ORIGIN)[0] == [3]
    second.close()


def test_ten_submitters_and_two_readers_at_once_lose_and_double_nothing(
    home: Home, start: Callable[[str, Path], Process]
) -> None:
    submitters = [start(SUBMITTER, home.store) for _ in range(SUBMITTERS)]
    everybody = submitters + [start(READER, home.store) for _ in range(2)]
    for one in everybody:
        one.await_ready()
    for one in everybody:  # all at once, and the store is not even there yet
        one.go()
    said = [one.communicate(timeout=60) for one in everybody]
    assert [errors for _, errors in said] == [""] * len(said)
    batches = [batch for output, _ in said[:SUBMITTERS] for batch in json.loads(output)]
    assert all(batch == list(range(batch[0], batch[0] + BATCH)) for batch in batches)
    ids = sorted(job_id for batch in batches for job_id in batch)
    assert ids == list(range(1, SUBMITTERS * BATCHES * BATCH + 1))


def test_a_submitter_killed_in_the_middle_leaves_whole_batches(
    home: Home, store: Store, start: Callable[[str, Path], Process]
) -> None:
    endless = SUBMITTER.replace(f"range({BATCHES})", "iter(int, 1)")
    submitter = start(endless, home.store)
    submitter.go()
    eventually(lambda: len(store.jobs()) >= 3 * BATCH, "a few batches")
    submitter.kill()
    submitter.wait()
    count = len(store.jobs())
    assert count % BATCH == 0
    assert store.submit([spec()], ORIGIN)[0] == [count + 1]


def test_nobody_writes_between_what_a_transaction_reads_and_what_it_writes(home: Home, store: Store) -> None:
    [job_id], _ = store.submit([spec()], ORIGIN)
    intruder = sqlite3.connect(home.store, timeout=0, isolation_level=None)
    refused: list[str] = []

    def now() -> str:  # asked for after the job was read
        try:
            intruder.execute("UPDATE jobs SET priority = 1")
        except sqlite3.OperationalError as error:
            refused.append(str(error))
        return NOON

    cancelling = Store(home.store, now=now)
    cancelling.cancel(job_id)
    assert set(refused) == {"database is locked"}
    cancelling.close()
    intruder.close()


def test_a_schema_of_the_future_is_refused_with_what_to_do(home: Home) -> None:
    Store(home.store).close()
    database = sqlite3.connect(home.store)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(
        StoreError, match=rf"version {SCHEMA_VERSION + 1}, this gpuq knows {SCHEMA_VERSION}; use the gpuq that wrote it"
    ):
        Store(home.store)


@pytest.mark.parametrize("content", [b"not a database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_corrupt_file_is_refused_and_left_as_it_is(home: Home, content: bytes) -> None:
    home.store.write_bytes(content)
    with pytest.raises(StoreError, match=r"gpuq\.db: cannot be used as the queue's store: "):
        Store(home.store)
    assert home.store.read_bytes() == content


def test_the_log_of_a_store_that_is_gone_is_not_put_into_a_new_one(home: Home, store: Store) -> None:
    store.submit([spec()], ORIGIN)
    home.store.unlink()
    with pytest.raises(DamagedStoreError, match="it is gone, and its log is not; `gpuq doctor --rebuild`"):
        Store(home.store)
    assert not home.store.exists()


def test_a_folder_in_its_place_is_refused(home: Home) -> None:
    home.store.mkdir()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(home.store)


@contextmanager
def room_for_files(size_bytes: int) -> Iterator[None]:
    """As on a full disk: files of this process cannot grow past a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_batch_for_which_there_is_no_room_is_refused_as_a_whole(store: Store) -> None:
    large = spec(options={"padding": "x" * 100_000})
    with room_for_files(256 << 10), pytest.raises(sqlite3.OperationalError):
        store.submit([large] * 10, ORIGIN)
    assert store.submit([spec()], ORIGIN)[0] == [1]
