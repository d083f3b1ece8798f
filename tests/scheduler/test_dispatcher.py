"""What a tick of the dispatcher starts, and why the rest waits."""

import errno
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from bench import Bench
from builders import GiB, MiB, metrics

from jobs.run_dir import ExitCode, Failure, append_line, write_record
from jobs.trace_messages import Reply
from scheduler.device_view import read_view
from scheduler.estimate import ESTIMATES_VARY_BYTES, Basis
from scheduler.rest import FIRST_S, LONGEST_S
from scheduler.starting import ASIDE_S
from scheduler.states import Outcome, State
from scheduler.tracing import Failed

# -- placing ----------------------------------------------------------------------------------------------------


def test_a_job_that_fits_is_started_with_what_was_decided(bench: Bench) -> None:
    job_id = bench.started(memory="100 MiB", threads=2)
    launch = bench.launch(job_id)
    assert (launch.number, launch.device) == (1, "cpu")
    assert launch.reservation_bytes == launch.resident_limit_bytes == 100 * MiB
    assert launch.environment["OMP_NUM_THREADS"] == "2"
    assert bench.home.run_dir(job_id).read_spec() == bench.job(job_id).spec


def test_memory_is_reserved_before_a_job_starts(bench: Bench) -> None:
    for memory in ("400 MiB", "300 MiB"):
        bench.submit(memory=memory)
    bench.tick()
    assert bench.engine.reserved_at_start == [400 * MiB, 700 * MiB]


def test_as_many_start_as_fit_and_the_rest_says_why_it_waits(bench: Bench) -> None:
    small, large, other = (bench.submit(memory=memory) for memory in ("200 MiB", "600 MiB", "500 MiB"))
    bench.tick()
    assert bench.starting() == [small, large]
    assert bench.job(other).reason == "needs 500 MiB, 424 MiB unreserved"


def test_a_waiting_job_starts_when_another_has_ended(bench: Bench) -> None:
    first, second = bench.submit(memory="600 MiB"), bench.submit(memory="600 MiB")
    bench.tick()
    bench.end(first, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.starting() == [second]
    assert bench.job(second).reason is None


def test_nothing_starts_twice(bench: Bench) -> None:
    bench.started()
    bench.tick()
    assert len(bench.engine.launches) == 1


def test_memory_of_others_is_respected(bench: Bench) -> None:
    bench.machine.others_bytes = 800 * MiB
    job_id = bench.submit(memory="300 MiB")
    bench.tick()
    assert bench.job(job_id).reason == "needs 300 MiB, 224 MiB unreserved (800 MiB used by others)"
    bench.machine.others_bytes = 0
    bench.tick()
    assert bench.starting() == [job_id]


def test_memory_that_others_take_leaves_running_jobs_alone(bench: Bench) -> None:
    job_id = bench.started(memory="300 MiB")
    bench.begin(job_id)
    bench.machine.others_bytes = GiB
    bench.tick()
    assert bench.job(job_id).state is State.RUNNING
    assert not bench.engine.asked_to_stop


def test_a_worker_that_holds_more_than_its_reservation_leaves_that_much_less(bench: Bench) -> None:
    bench.started(memory="100 MiB")
    bench.tick()
    bench.machine.used_by_worker = {4300: 700 * MiB}
    waiting = bench.submit(memory="400 MiB")
    bench.tick()
    assert bench.job(waiting).reason == "needs 400 MiB, 324 MiB unreserved"


def test_a_job_that_can_never_fit_fails_with_advice(bench: Bench) -> None:
    job_id = bench.submit(memory="2 GiB")
    bench.tick()
    job = bench.job(job_id)
    assert job.outcome is Outcome.FAILED
    assert job.reason is not None
    assert "a smaller train.batch_size or model may fit" in job.reason


def test_a_traced_job_that_can_never_fit_fails_with_the_batch_size_that_would_and_the_rest_goes_on(
    bench: Bench,
) -> None:
    large, small = bench.submit(memory=None), bench.submit(memory=None, network="bn4")
    bench.tick()
    bench.estimator.answers = {
        large: Reply(key=large, components={"all": 2 * GiB}, largest_batch_size=96),
        small: Reply(key=small, components={"all": 100 * MiB}),
    }
    bench.tick()
    reason = "needs 2.3 GiB, the device has 1.0 GiB at most; train.batch_size = 96 would fit"
    assert (bench.job(large).outcome, bench.job(large).reason) == (Outcome.FAILED, reason)
    assert bench.starting() == [small]


def test_a_trace_is_told_what_it_may_come_to_if_the_job_is_to_fit(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    assert bench.estimator.most_bytes == {job_id: pytest.approx(GiB / 1.15 - ESTIMATES_VARY_BYTES, abs=1)}


def test_nothing_starts_while_the_device_cannot_be_read(bench: Bench) -> None:
    bench.machine.error = "GPU 0 cannot be read: Driver Not Loaded"
    job_id = bench.submit()
    bench.tick()
    assert (bench.job(job_id).state, bench.job(job_id).reason) == (State.QUEUED, bench.machine.error)
    bench.machine.error = None
    bench.tick()
    assert bench.starting() == [job_id]


def test_a_job_that_died_of_the_device_goes_on_once_that_has_had_time_to_recover(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, other = bench.started(), bench.submit(memory="2 GiB")
    bench.begin(job_id)
    lost = Failure(kind="AcceleratorError", message="AcceleratorError: CUDA error: unknown error", of_device=True)
    write_record(bench.files(job_id).failure, lost)
    bench.end(job_id, exit_code=ExitCode.FAILED)
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    bench.tick()
    assert bench.attempt(job_id).outcome is Outcome.LOST
    assert {bench.job(one).reason for one in (job_id, other)} == {"the device has failed a job; nothing starts for 1m"}
    now += FIRST_S
    bench.tick()
    assert bench.starting() == [job_id]


@pytest.mark.parametrize(("gets_on", "length"), [(False, "2m"), (True, "1m")])
def test_the_device_is_left_alone_for_longer_each_time_until_a_job_gets_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, gets_on: bool, length: str
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    job_id = bench.submit()
    for of_device in (True, False, True):
        bench.tick()
        bench.begin(job_id)
        if not of_device:
            append_line(bench.home.run_dir(job_id).metrics, metrics(1 if gets_on else 0))
        write_record(bench.files(job_id).failure, Failure(kind="RuntimeError", message="so", of_device=of_device))
        bench.end(job_id, exit_code=ExitCode.FAILED)
        bench.tick()
        now += LONGEST_S if of_device else 0
    now -= LONGEST_S
    assert bench.job(job_id).reason == f"the device has failed a job; nothing starts for {length}"


def test_a_run_directory_that_cannot_be_made_keeps_no_other_job_waiting_and_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = bench.submit(memory="600 MiB"), bench.submit(memory="500 MiB")
    in_the_way = bench.home.run_dir(first).path
    in_the_way.parent.mkdir()
    in_the_way.touch()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    bench.tick()
    why = f"cannot be started: FileExistsError: [Errno 17] File exists: '{in_the_way}'; tried again in a minute"
    assert (bench.job(first).state, bench.job(first).reason) == (State.QUEUED, why)
    bench.tick()
    assert bench.starting() == [other]
    bench.end(other, exit_code=ExitCode.SUCCEEDED)
    in_the_way.unlink()
    now += ASIDE_S
    bench.tick()
    assert bench.starting() == [first]


def test_a_process_that_cannot_be_started_is_no_loss_of_its_job_and_is_tried_again_in_a_minute(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = bench.submit(memory="200 MiB"), bench.submit()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    too_many = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    with monkeypatch.context() as patched:
        patched.setattr(bench.engine, "start", Mock(side_effect=too_many))
        for _ in range(3):
            bench.tick()
    [attempt] = bench.store.attempts()
    assert (attempt.job_id, attempt.outcome) == (first, Outcome.STOPPED)
    assert attempt.reason == f"no process can be started: BlockingIOError: {too_many}"
    assert {bench.job(one).reason for one in (first, other)} == {f"{attempt.reason}; nothing starts for 1m"}
    now += FIRST_S
    bench.tick()
    assert bench.starting() == [first, other]


def test_what_is_written_of_jobs_that_wait_takes_as_many_transactions_however_many_they_are(bench: Bench) -> None:
    bench.started(memory="1 GiB")
    bench.tick()
    for _ in range(20):
        bench.submit()
    statements: list[str] = []
    bench.store._db.set_trace_callback(statements.append)
    bench.tick()
    assert statements.count("BEGIN IMMEDIATE") == 2  # their estimates, and why they wait
    statements.clear()
    bench.tick()
    assert [one for one in statements if not one.startswith("SELECT")] == []


def test_what_ends_is_followed_even_while_the_device_cannot_be_read(bench: Bench) -> None:
    job_id = bench.started()
    bench.machine.error = "GPU 0 cannot be read"
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.SUCCEEDED


def test_the_device_is_left_for_others_to_see(bench: Bench) -> None:
    bench.started(memory="100 MiB")
    bench.tick()
    view = read_view(bench.home.device_view)
    assert view is not None
    assert (view.snapshot.name, view.reserved_bytes, view.error) == ("a machine", 100 * MiB, None)


def test_why_a_device_cannot_be_read_is_left_for_others_to_see(bench: Bench) -> None:
    bench.machine.error = "GPU 0 cannot be read"
    bench.tick()
    view = read_view(bench.home.device_view)
    assert view is not None
    assert view.error == "GPU 0 cannot be read"


# -- estimating -------------------------------------------------------------------------------------------------


def test_a_job_waits_for_its_estimate(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    assert bench.estimator.pending == {job_id}
    assert bench.job(job_id).reason == "its memory is being estimated"


def test_a_traced_job_is_placed_with_a_margin(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {job_id: Reply(key=job_id, components={"all": 100 * MiB}, parameters=5)}
    bench.tick()
    assert bench.launch(job_id).reservation_bytes == 115 * MiB
    assert bench.job(job_id).parameters == 5


def test_a_job_that_cannot_be_traced_fails_and_the_rest_goes_on(bench: Bench) -> None:
    bad, good = bench.submit(memory=None), bench.submit()
    bench.tick()
    bench.estimator.answers = {bad: Failed("ModelError: no network called 'resv9'")}
    bench.tick()
    assert (bench.job(bad).outcome, bench.job(bad).reason) == (Outcome.FAILED, "ModelError: no network called 'resv9'")
    assert bench.starting() == [good]


def test_jobs_of_one_signature_are_traced_once(bench: Bench) -> None:
    first, second = bench.submit(memory=None, name="one seed"), bench.submit(memory=None, name="another seed")
    bench.tick()
    assert bench.estimator.pending == {first}
    bench.estimator.answers = {first: Reply(key=first, components={"all": 100 * MiB}, parameters=5)}
    bench.tick()
    later = bench.submit(memory=None, name="a third seed")
    bench.tick()
    assert bench.estimator.pending == frozenset()
    assert [bench.launch(job).reservation_bytes for job in (first, second, later)] == [115 * MiB] * 3


def test_a_job_whose_like_could_not_be_traced_is_traced_itself(bench: Bench) -> None:
    first, second = bench.submit(memory=None), bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {first: Failed("ended by SIGSEGV")}
    bench.tick()
    assert bench.estimator.pending == {second}
    assert bench.job(second).outcome is None


def test_a_job_cancelled_while_it_is_traced_stays_cancelled(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.store.cancel(job_id)
    bench.estimator.answers = {job_id: Failed("ended by SIGSEGV")}
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.CANCELLED


def test_a_job_removed_while_it_is_traced_keeps_no_other_waiting(bench: Bench) -> None:
    removed = bench.submit(memory=None)
    bench.tick()
    bench.store.cancel(removed)
    assert bench.store.remove(removed, lambda: None)
    other = bench.submit()
    bench.estimator.answers = {removed: Failed("ended by SIGSEGV")}
    bench.tick()
    assert bench.starting() == [other]


def test_a_job_whose_like_has_run_is_placed_by_what_that_used(bench: Bench) -> None:
    first = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {first: Reply(key=first, components={"all": 200 * MiB}, parameters=5)}
    bench.tick()
    bench.end(first, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=100 * MiB)
    second = bench.submit(memory=None, name="the same again")
    bench.tick()
    assert bench.launch(second).reservation_bytes == 110 * MiB
    assert bench.job(second).estimate.basis is Basis.MEASURED  # type: ignore[union-attr]


def test_a_job_that_waits_is_corrected_by_what_its_like_used_meanwhile(bench: Bench) -> None:
    first, second = bench.submit(memory=None), bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {first: Reply(key=first, components={"all": 600 * MiB}, parameters=5)}
    bench.tick()
    assert bench.starting() == [first]
    bench.end(first, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=300 * MiB)
    bench.tick()
    assert bench.launch(second).reservation_bytes == 330 * MiB
    assert bench.job(second).estimate.basis is Basis.MEASURED  # type: ignore[union-attr]


def test_a_users_network_that_is_gone_does_not_stop_the_dispatcher(bench: Bench, tmp_path: Path) -> None:
    gone, fine = bench.submit(memory=None, network=f"{tmp_path}/gone.py:build"), bench.submit()
    bench.tick()
    assert bench.starting() == [fine]
    assert bench.estimator.pending == {gone}
