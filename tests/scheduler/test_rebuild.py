"""A store that is damaged or gone: never touched, and the queue restored from the run directories."""

import fcntl
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from bench import RESULT
from builders import NOON, ORIGIN, MiB, ended, launch, metrics, prediction, spec
from filelock import FileLock
from msgspec.structs import replace

from jobs.errors import GpuqError
from jobs.run_dir import ExitCode, ExitRecord, Failure, Metrics, Peak, Progress, append_line, write_record
from scheduler.cli import cli, main
from scheduler.errors import DamagedStoreError, StoreError
from scheduler.home import Home
from scheduler.rebuild import Rebuilt, rebuild
from scheduler.records import Job
from scheduler.schema import SCHEMA_VERSION
from scheduler.states import Outcome, State, Wish
from scheduler.store import Store

Damage = Callable[[Path], None]


def truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite_the_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def overwrite_the_page(path: Path, of: bytes) -> None:
    """The one that some words are on."""
    content = bytearray(path.read_bytes())
    page = content.index(of) // PAGE_BYTES * PAGE_BYTES
    content[page : page + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


PAGE_BYTES = 4096
BEGUN = Progress(parameters=1000, resumed_from_step=0, steps=1000)

DAMAGES = [truncate, empty, overwrite_the_header]


class Night:
    """A state directory as a night leaves it: one job of each kind."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.store = Store(home.store)

    def submit(self, name: str, **fields: object) -> int:
        return self.store.submit([spec(name, **fields)], ORIGIN)[0][0]  # type: ignore[arg-type]

    def attempt(self, job_id: int, number: int = 1, record: ExitRecord | None = None) -> None:
        """Leave the files of an attempt."""
        files = self.home.run_dir(job_id)
        files.create(self.store.job(job_id).spec)
        write_record(files.attempt(number).launch, launch(number))
        write_record(files.attempt(number).progress, BEGUN)
        if record is not None:
            write_record(files.attempt(number).exit, record)

    def lines(self, job_id: int, *lines: Metrics) -> None:
        for line in lines:
            append_line(self.home.run_dir(job_id).metrics, line)

    def succeeded(self) -> int:
        job_id = self.submit("succeeded")
        self.attempt(job_id, record=ended(exit_code=ExitCode.SUCCEEDED))
        write_record(self.home.run_dir(job_id).attempt(1).peak, Peak(peak_bytes=300 * MiB))
        write_record(self.home.run_dir(job_id).result, RESULT)
        self.lines(job_id, metrics(1, accuracy=0.6), metrics(2, accuracy=0.5))
        return job_id

    def refused(self) -> int:
        job_id = self.submit("refused")
        self.attempt(job_id, record=ended(exit_code=ExitCode.REFUSED))
        write_record(self.home.run_dir(job_id).attempt(1).failure, Failure(kind="ModelError", message="no such layer"))
        return job_id

    def many(self) -> list[int]:
        """Jobs that never started, on several pages."""
        return [self.submit(f"<{number}>", options={"padding": "x" * 500}) for number in range(50)]

    def lose(self, damage: Damage) -> None:
        self.store.close()
        damage(self.home.store)

    def rebuilt(self) -> Rebuilt:
        told = rebuild(self.home)
        self.store = Store(self.home.store)
        return told

    def job(self, job_id: int) -> Job:
        return self.store.job(job_id)


@pytest.fixture
def night(home: Home) -> Night:
    return Night(home)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_with_what_to_do_and_left_as_it_is(night: Night, damage: Damage) -> None:
    night.succeeded()
    night.lose(damage)
    before = night.home.store.read_bytes()
    with pytest.raises(StoreError, match="`gpuq doctor --rebuild` restores the queue") as refusal:
        Store(night.home.store).check()
    assert isinstance(refusal.value, DamagedStoreError)
    assert night.home.store.read_bytes() == before


def test_damage_where_no_command_looks_is_found_by_the_check(night: Night) -> None:
    night.store.cancel(night.submit("a"))
    night.lose(partial(overwrite_the_page, of=b"cancelled: cancelled before"))  # its event
    store = Store(night.home.store)
    assert len(store.jobs()) == 1
    with pytest.raises(DamagedStoreError):
        store.check()


def test_a_job_that_cannot_be_decoded_is_damage(night: Night) -> None:
    job_id = night.submit("a")
    with closing(sqlite3.connect(night.home.store, isolation_level=None)) as database:
        database.execute("UPDATE jobs SET spec = '{' || spec")
    with pytest.raises(DamagedStoreError, match=f"job {job_id}: cannot be used"):
        night.store.jobs()


def test_damage_that_shows_up_late_is_one_line_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended_with:
        main(["status"])
    assert ended_with.value.code == 1
    assert capsys.readouterr().err == (
        "gpuq: the store cannot be used now: database disk image is malformed; "
        "`gpuq doctor --rebuild` restores the queue from the run directories\n"
    )


def test_a_store_in_order_is_not_rebuilt(night: Night) -> None:
    night.succeeded()
    with pytest.raises(GpuqError, match="is in order: there is nothing to rebuild"):
        rebuild(night.home)


def test_a_store_of_a_newer_gpuq_is_not_rebuilt(night: Night) -> None:
    night.succeeded()
    with closing(sqlite3.connect(night.home.store)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="use the gpuq that wrote it"):
        rebuild(night.home)


def test_nothing_is_rebuilt_under_a_dispatcher(night: Night) -> None:
    night.succeeded()
    night.lose(truncate)
    with (
        FileLock(night.home.dispatcher_lock),
        pytest.raises(GpuqError, match="a dispatcher is running: stop it"),
    ):
        rebuild(night.home)


def test_nothing_is_rebuilt_while_an_attempt_lives(night: Night) -> None:
    job_id = night.succeeded()
    night.lose(truncate)
    with night.home.run_dir(job_id).attempt(1).lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(GpuqError, match=f"job {job_id} is still training"):
            rebuild(night.home)


# -- what is restored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [*DAMAGES, remove])
def test_finished_jobs_are_finished_as_they_were(night: Night, damage: Damage) -> None:
    succeeded, refused = night.succeeded(), night.refused()
    night.lose(damage)
    night.rebuilt()
    assert [(job.id, job.name, job.outcome, job.reason) for job in night.store.jobs()] == [
        (succeeded, "succeeded", Outcome.SUCCEEDED, None),
        (refused, "refused", Outcome.FAILED, "no such layer"),
    ]
    night.store.check()


def test_what_a_job_has_reached_is_restored(night: Night) -> None:
    job_id = night.succeeded()
    night.lose(remove)
    night.rebuilt()
    job, [attempt] = night.job(job_id), night.store.attempts(job_id)
    assert (job.epoch, job.step, job.steps, job.elapsed_s) == (2, 200, 1000, 20.0)
    assert (job.best_validation_accuracy, job.test_accuracy, job.parameters) == (0.6, RESULT.test_accuracy, 1000)
    assert (job.finished_at, attempt.ended_at, attempt.outcome) == (NOON, NOON, Outcome.SUCCEEDED)
    assert (attempt.peak_bytes, attempt.exit_code, attempt.start_step) == (300 * MiB, 0, 0)
    with closing(sqlite3.connect(night.home.store)) as database:
        assert database.execute("SELECT step, validation_accuracy FROM metrics").fetchall() == [(100, 0.6), (200, 0.5)]


def test_what_an_attempt_gave_back_is_restored(night: Night) -> None:
    job_id = night.succeeded()
    progress = replace(BEGUN, reservation_bytes=300 * MiB)
    write_record(night.home.run_dir(job_id).attempt(1).progress, progress)
    night.lose(truncate)
    night.rebuilt()
    [attempt] = night.store.attempts(job_id)
    assert attempt.reservation_bytes == 300 * MiB
    assert night.job(job_id).reservation_bytes == launch().reservation_bytes


def test_restored_attempts_are_no_measurements(night: Night) -> None:
    night.succeeded()
    night.lose(remove)
    night.rebuilt()
    with closing(sqlite3.connect(night.home.store)) as database:
        assert database.execute("SELECT * FROM measurements").fetchall() == []


def test_an_unfinished_job_is_queued_and_its_next_attempt_follows(night: Night) -> None:
    job_id = night.submit("running")
    night.attempt(job_id, 1, ended(exit_code=ExitCode.STOPPED, stop_requested=True))
    night.attempt(job_id, 2)
    night.lose(remove)
    night.rebuilt()
    assert night.job(job_id).state is State.QUEUED
    assert [one.outcome for one in night.store.attempts(job_id)] == [Outcome.STOPPED, Outcome.LOST]
    assert night.store.live_attempts() == []


def test_a_spec_that_cannot_be_read_is_left_out_and_told(night: Night) -> None:
    succeeded, broken = night.succeeded(), night.refused()
    night.home.run_dir(broken).spec.write_text("{")
    night.lose(remove)
    told = night.rebuilt()
    assert [job.id for job in night.store.jobs()] == [succeeded]
    assert [reason for reason in told.in_words() if f"runs/{broken}/spec.json" in reason] != []


def test_a_damaged_record_does_not_keep_a_job_from_being_restored(night: Night) -> None:
    job_id = night.succeeded()
    night.home.run_dir(job_id).attempt(1).peak.write_text("not a record")
    night.lose(remove)
    night.rebuilt()
    assert night.job(job_id).outcome is Outcome.SUCCEEDED


def test_ids_of_run_directories_are_not_given_again(night: Night) -> None:
    night.succeeded()
    broken = night.refused()
    night.home.run_dir(broken).spec.write_text("{")
    night.lose(remove)
    night.rebuilt()
    assert night.submit("new") == broken + 1


def test_a_new_store_beside_old_run_directories_does_not_give_their_ids_again(night: Night) -> None:
    last = night.succeeded()
    night.lose(remove)
    night.store = Store(night.home.store)
    assert night.submit("new") == last + 1


def test_an_empty_store_that_another_command_has_made_is_no_hindrance(night: Night) -> None:
    job_id = night.succeeded()
    night.lose(remove)
    Store(night.home.store).close()
    night.rebuilt()
    assert night.job(job_id).outcome is Outcome.SUCCEEDED


def test_what_was_in_the_store_alone_is_restored_as_far_as_it_is_readable(night: Night) -> None:
    never_started, paused, cancelled = night.submit("waits", priority=7), night.submit("paused"), night.submit("not")
    night.store.pause(paused)
    night.store.cancel(cancelled)
    broken = night.submit("broken")
    night.store.close()
    with closing(sqlite3.connect(night.home.store, isolation_level=None)) as database:
        database.execute("UPDATE jobs SET spec = '{' WHERE id = ?", (broken,))
    night.rebuilt()
    jobs = {job.id: job for job in night.store.jobs()}
    assert list(jobs) == [never_started, paused, cancelled]
    assert (jobs[never_started].priority, jobs[never_started].submitted_from) == (7, ORIGIN.directory)
    assert jobs[paused].wish is Wish.PAUSE
    assert jobs[cancelled].outcome is Outcome.CANCELLED


def test_jobs_before_and_after_a_damaged_page_are_restored(night: Night) -> None:
    ids = night.many()
    night.lose(partial(overwrite_the_page, of=b"<25>"))
    night.rebuilt()
    restored = [job.id for job in night.store.jobs()]
    assert {ids[0], ids[-1]} <= set(restored)
    assert len(restored) >= 50 - 2 * PAGE_BYTES // 500


def test_jobs_in_what_is_left_of_a_truncated_store_are_restored(night: Night) -> None:
    ids = night.many()
    night.lose(partial(truncate, share=0.75))
    night.rebuilt()
    restored = [job.id for job in night.store.jobs()]
    assert restored[:10] == ids[:10]


def break_a_row(night: Night) -> None:
    """Damage that leaves the other rows readable."""
    broken = night.submit("broken")
    night.store.close()
    with closing(sqlite3.connect(night.home.store, isolation_level=None)) as database:
        database.execute("UPDATE jobs SET spec = '{' WHERE id = ?", (broken,))


def test_a_job_that_was_cancelled_while_it_ran_stays_so_if_the_store_still_tells(night: Night) -> None:
    job_id = night.submit("running")
    night.store.place(job_id, 512 * MiB, prediction())
    night.store.cancel(job_id)
    night.attempt(job_id, record=ended(exit_code=ExitCode.STOPPED, stop_requested=True))
    break_a_row(night)
    night.rebuilt()
    assert night.job(job_id).outcome is Outcome.CANCELLED


def test_a_job_that_the_store_knows_as_finished_is_not_queued_again(night: Night) -> None:
    job_id = night.submit("ended")
    night.attempt(job_id, record=ended(exit_code=ExitCode.STOPPED, stop_requested=True))
    night.store.cancel(job_id)  # queued again after that attempt, and then not wanted any more
    break_a_row(night)
    night.rebuilt()
    assert night.job(job_id).outcome is Outcome.CANCELLED


def test_a_job_that_was_retried_after_its_last_attempt_is_queued_if_the_store_still_tells(night: Night) -> None:
    job_id = night.refused()
    number = night.store.place(job_id, 512 * MiB, prediction())
    [attempt] = night.store.live_attempts()
    night.store.end_attempt(attempt, Outcome.FAILED, "no such layer", requeue=False, exit_code=4, peak_bytes=None)
    night.store.retry(job_id)
    break_a_row(night)
    night.rebuilt()
    job = night.job(job_id)
    assert (job.state, job.forgiven_attempts) == (State.QUEUED, number)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE jobs SET spec = 7", "UPDATE jobs SET state = 'broken'", "UPDATE attempts SET basis = 'broken'"],
)
def test_a_row_that_cannot_be_decoded_is_damage(night: Night, statement: str) -> None:
    night.store.place(night.submit("a"), 512 * MiB, prediction())
    with closing(sqlite3.connect(night.home.store, isolation_level=None)) as database:
        database.execute(statement)
    with pytest.raises(DamagedStoreError, match="job 1"):
        night.store.check()


def test_failures_before_a_retry_do_not_count(night: Night) -> None:
    job_id = night.submit("retried")
    for number in (1, 2, 3):
        night.attempt(job_id, number, ended(exit_code=ExitCode.FAILED))
    third = night.home.run_dir(job_id).attempt(3)
    write_record(third.launch, replace(launch(3), first_counted=3))
    night.lose(remove)
    night.rebuilt()
    job = night.job(job_id)
    assert (job.state, job.forgiven_attempts) == (State.QUEUED, 2)


def test_the_damaged_store_is_kept_with_its_log(night: Night) -> None:
    night.succeeded()
    night.lose(truncate)
    damaged = night.home.store.read_bytes()
    night.home.store.with_name("gpuq.db-wal").write_bytes(b"a log")
    aside = rebuild(night.home).aside
    assert aside is not None
    assert aside.read_bytes() == damaged
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"a log"
    assert aside.stat().st_mode & 0o777 == 0o600


def test_the_new_store_does_not_get_the_log_of_the_damaged_one(night: Night) -> None:
    night.succeeded()
    night.lose(truncate)
    log = night.home.store.with_name("gpuq.db-wal")
    log.write_bytes(b"a log")
    rebuild(night.home)
    assert not log.exists()


def test_doctor_rebuilds_and_says_so(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUQ_HOME", str(night.home.path))
    monkeypatch.setattr("scheduler.doctor.examine", lambda *_: [])
    night.succeeded()
    night.submit("waits")
    night.lose(truncate)
    with pytest.raises(SystemExit) as ended_with:
        main(["doctor", "--rebuild", "--json", "--device", "cpu"])
    told = capsys.readouterr()
    assert ended_with.value.code == 0
    assert json.loads(told.out) == {"ok": True, "checks": []}
    assert told.err.startswith("restored ")
