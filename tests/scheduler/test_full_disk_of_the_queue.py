"""The queue on a disk that is really full: nothing is judged, nothing starts, nothing is corrupt; then it goes on."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from bench import Bench, Engine
from builders import ORIGIN, spec
from small_disk import SmallDisk

from jobs.room import LEAST_BYTES
from jobs.run_dir import ExitCode
from scheduler import overview
from scheduler.device import CpuDevice
from scheduler.disk import needed_bytes, require_room
from scheduler.dispatcher import ENDING_S, GRACE_S
from scheduler.errors import StoreFullError, is_full
from scheduler.estimating import ROOM_RETRY_S, Estimating
from scheduler.home import Home
from scheduler.states import Outcome, State
from scheduler.status import report
from scheduler.store import Store
from scheduler.tracing import Failed


@pytest.fixture
def home(small_disk: SmallDisk) -> Home:
    return Home(small_disk.path / "home").create()


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = Store(home.store)
    yield opened
    opened.close()


@pytest.fixture
def bench(home: Home, store: Store) -> Bench:
    return Bench(home, store, Engine(store))


def tick_without_room(bench: Bench) -> None:
    """A tick that says of itself that the disk is full."""
    with pytest.raises((OSError, sqlite3.Error)) as raised:
        bench.tick()
    assert is_full(raised.value)


@contextmanager
def full(bench: Bench, disk: SmallDisk) -> Iterator[None]:
    """No room on the disk, nor in the blocks that SQLite's log has already, which a reader keeps it from using anew."""
    reader, writer = (sqlite3.connect(bench.home.store, isolation_level=None) for _ in range(2))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM jobs").fetchall()
    disk.fill()
    try:
        assert any(not _changed(writer) for _ in range(1000))
        yield
    finally:
        reader.close()
        writer.close()
        disk.make_room()


def _changed(writer: sqlite3.Connection) -> bool:
    try:
        writer.execute("UPDATE jobs SET spec = spec || ' '")
    except sqlite3.OperationalError:
        return False
    return True


class TestDispatcher:
    def test_a_job_without_room_for_its_run_directory_waits_for_that_reason(
        self, bench: Bench, home: Home, small_disk: SmallDisk
    ) -> None:
        job_id = bench.submit()
        small_disk.fill(but_bytes=LEAST_BYTES // 2)
        bench.tick()
        assert bench.job(job_id).reason == f"waiting for room: 1.0 MiB needed in {home.run_dir(job_id).path}"
        assert bench.starting() == []
        small_disk.make_room()
        bench.tick()
        assert bench.starting() == [job_id]

    def test_no_attempt_is_judged_while_the_store_is_full(self, bench: Bench, small_disk: SmallDisk) -> None:
        job_id = bench.started()
        bench.begin(job_id)
        bench.tick()
        bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
        with full(bench, small_disk):
            tick_without_room(bench)
            assert bench.job(job_id).state is State.RUNNING
        bench.tick()
        assert bench.job(job_id).outcome is Outcome.SUCCEEDED
        bench.store.check()

    def test_a_stop_reaches_the_others_when_one_cannot_be_taken_over(self, bench: Bench, small_disk: SmallDisk) -> None:
        first, second = bench.started(), bench.started()
        bench.store.cancel(second)
        bench.begin(first)  # which the store is to be told
        with full(bench, small_disk):
            tick_without_room(bench)
        assert bench.engine.asked_to_stop == {bench.files(second).folder}

    def test_shutting_down_leaves_the_rest_to_the_next_dispatcher(self, bench: Bench, small_disk: SmallDisk) -> None:
        job_id = bench.started()
        bench.begin(job_id)
        slept = []

        def stop(seconds: float) -> None:
            assert bench.engine.asked_to_stop == {bench.files(job_id).folder}
            bench.end(job_id, exit_code=ExitCode.STOPPED)
            slept.append(seconds)

        with full(bench, small_disk):
            bench.dispatcher.shut_down(stop, lambda: sum(slept))
        assert GRACE_S < sum(slept) < GRACE_S + 2 * ENDING_S
        assert bench.attempt(job_id).outcome is None
        bench.new_dispatcher().tick()
        assert bench.store.attempts(job_id)[0].outcome is Outcome.STOPPED

    def test_data_without_room_are_no_failure_and_are_tried_again(self, bench: Bench) -> None:
        now = [0.0]
        estimating = Estimating(bench.store, bench.estimator, lambda job: job.name, lambda: now[0])  # type: ignore[arg-type]

        def advance() -> None:
            estimating.advance(bench.store.startable, bench.store.history("cpu", "a machine"), None)

        job_id = bench.submit(memory=None)
        advance()
        bench.estimator.answers[job_id] = Failed("/cache: no room: 9 MiB needed", no_room=True)
        advance()
        assert bench.job(job_id).state is State.QUEUED
        assert estimating.without_room == {job_id: "waiting for room: /cache: no room: 9 MiB needed"}
        assert job_id not in bench.estimator.asked
        now[0] = ROOM_RETRY_S
        advance()
        assert estimating.without_room == {}
        assert job_id in bench.estimator.asked

    def test_a_job_whose_data_find_no_room_says_so_while_it_waits(self, bench: Bench) -> None:
        job_id = bench.submit(memory=None)
        bench.tick()
        bench.estimator.answers[job_id] = Failed("/cache: no room: 9 MiB needed", no_room=True)
        for _ in range(2):
            bench.tick()
            assert bench.job(job_id).reason == "waiting for room: /cache: no room: 9 MiB needed"

    def test_an_estimate_that_finds_no_room_in_the_store_is_not_lost(self, bench: Bench, small_disk: SmallDisk) -> None:
        job_id = bench.submit(memory=None)
        bench.tick()
        bench.estimator.answers[job_id] = Failed("cannot be traced")
        with full(bench, small_disk):
            tick_without_room(bench)
        bench.tick()
        assert bench.job(job_id).reason == "cannot be traced"


class TestNeeds:
    def test_it_is_the_checkpoints_of_a_job_less_what_is_there(self, home: Home) -> None:
        files, sgd = home.run_dir(1), spec()
        weights = 4 * 1000
        assert needed_bytes(files, sgd, parameters=1000) == LEAST_BYTES + 3 * 2 * weights + weights
        files.create(sgd)
        files.last_checkpoint.write_bytes(bytes(8500))
        assert needed_bytes(files, sgd, parameters=1000) == LEAST_BYTES + 3 * 2 * weights + weights - 8500


class TestReading:
    """With nobody else at the store: nobody keeps the index of its log, for which there is no room."""

    @pytest.fixture
    def full(self, home: Home, small_disk: SmallDisk) -> Home:
        store = Store(home.store)
        store.submit([spec()], ORIGIN)
        store.close()
        small_disk.fill()
        return home

    def test_it_can_be_read(self, full: Home) -> None:
        store = Store(full.store, even_if_full=True)
        made = report(full, store, CpuDevice(), datetime.now(UTC), store.jobs())
        store.close()
        assert [job.state for job in made.jobs] == [State.QUEUED]
        assert made.disk.error == f"no room in {full.path}: 0 B free, 1.0 MiB needed"

    def test_status_reads_so(self, full: Home) -> None:
        assert len(overview.look(full, None, "cpu", None).jobs) == 1

    def test_it_cannot_be_opened_to_be_changed(self, full: Home) -> None:
        with pytest.raises(StoreFullError, match=rf"{full.path}: no room on the disk \(0 B free, 1.0 MiB needed\)"):
            Store(full.store)

    def test_a_change_is_refused_before_it_is_tried(self, full: Home) -> None:
        with pytest.raises(StoreFullError):
            require_room(full)

    def test_what_is_in_the_log_alone_is_read_too(self, home: Home, small_disk: SmallDisk) -> None:
        """As a killed dispatcher leaves it."""
        store = Store(home.store)
        store.submit([spec()], ORIGIN)
        copied = Home(small_disk.path / "copied").create()
        for suffix in ("", "-wal"):
            shutil.copy(f"{home.store}{suffix}", f"{copied.store}{suffix}")
        store.close()
        small_disk.fill()
        store = Store(copied.store, even_if_full=True)
        assert [job.id for job in store.jobs()] == [1]
        store.close()

    def test_nothing_in_it_is_hurt_by_a_change_that_finds_no_room(self, full: Home, small_disk: SmallDisk) -> None:
        store = Store(full.store, even_if_full=True)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.submit([spec()], ORIGIN)
        store.close()
        small_disk.make_room()
        store = Store(full.store)
        store.check()
        assert [job.id for job in store.jobs()] == [1]
        store.close()

    def test_a_store_that_is_not_there_is_not_half_made(self, home: Home, small_disk: SmallDisk) -> None:
        small_disk.fill()
        with pytest.raises(StoreFullError):
            Store(home.store)
        assert list(home.path.iterdir()) == []


def test_without_room_for_it_the_device_view_stays_as_it_was(bench: Bench, small_disk: SmallDisk) -> None:
    bench.tick()
    before = bench.home.device_view.read_bytes()
    bench.machine.others_bytes = 1
    small_disk.fill()
    bench.tick()
    assert bench.home.device_view.read_bytes() == before
