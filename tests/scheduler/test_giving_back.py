"""What workers give back of their reservations is for other jobs from the next tick on; and what if it was too much."""

from collections.abc import Callable

from bench import Bench
from builders import MiB, metrics
from steps import Queue

from jobs.run_dir import ExitCode, Failure, KilledFor, Peak, append_line, write_record
from jobs.trace_messages import Reply
from scheduler.device_view import read_view
from scheduler.estimate import Basis
from scheduler.states import Outcome, State

Rows = Callable[[str], list[tuple[object, ...]]]


def running(bench: Bench, memory: str = "800 MiB", left_mib: int | None = None) -> int:
    """A job that trains, and has given back all but so much."""
    job_id = bench.started(memory=memory)
    bench.begin(job_id)
    if left_mib is not None:
        bench.give_back(job_id, left_mib * MiB)
    bench.tick()
    return job_id


def ran_out(bench: Bench, job_id: int, held_mib: int) -> None:
    """On the CPU: its parent process found it above what it is held to."""
    append_line(bench.home.run_dir(job_id).metrics, metrics(1, peak_bytes=MiB))
    bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY, resident_peak_bytes=held_mib * MiB)
    bench.tick()


def reserved_mib(bench: Bench) -> float:
    view = read_view(bench.home.device_view)
    assert view is not None
    return view.reserved_bytes / MiB


def test_another_job_starts_in_what_was_given_back(bench: Bench) -> None:
    first = running(bench)
    second = bench.submit(memory="400 MiB")
    bench.tick()
    assert bench.job(second).state is State.QUEUED
    bench.give_back(first, 600 * MiB)
    bench.tick()
    assert bench.job(second).state is State.STARTING
    bench.tick()
    assert reserved_mib(bench) == 1000


def test_what_a_job_was_placed_with_is_not_forgotten(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    assert (bench.job(job_id).reservation_bytes, bench.attempt(job_id).reservation_bytes) == (800 * MiB, 600 * MiB)


def test_a_reservation_is_never_raised(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    bench.give_back(job_id, 700 * MiB)
    bench.tick()
    assert bench.attempt(job_id).reservation_bytes == 600 * MiB


def test_the_next_dispatcher_knows_what_was_given_back_while_none_was_there(bench: Bench) -> None:
    job_id = running(bench)
    bench.give_back(job_id, 600 * MiB)
    bench.dispatcher = bench.new_dispatcher()
    bench.tick()
    assert bench.attempt(job_id).reservation_bytes == 600 * MiB


def test_a_job_that_starts_again_has_its_whole_reservation(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    bench.end(job_id, exit_code=ExitCode.STOPPED)
    bench.tick()
    assert bench.launch(job_id).number == 2
    assert bench.launch(job_id).reservation_bytes == bench.attempt(job_id).reservation_bytes == 800 * MiB
    assert bench.launch(job_id).gives_back


def test_the_store_lowers_what_a_live_attempt_holds_once_and_says_when(queue: Queue, rows: Rows) -> None:
    job_id = queue.running()
    for left_mib in (400, 400, 450):
        queue.store.lower_reservation(job_id, 1, left_mib * MiB)
    queue.end(job_id, Outcome.SUCCEEDED)
    queue.store.lower_reservation(job_id, 1, 300 * MiB)
    assert queue.store.attempts(job_id)[0].reservation_bytes == 400 * MiB
    assert rows("SELECT detail FROM events WHERE kind = 'gave back'") == [(str(400 * MiB),)]


# -- one that gave back too much ----------------------------------------------------------------------------------


def test_it_runs_out_of_what_it_had_kept_and_has_its_whole_reservation_again(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    ran_out(bench, job_id, held_mib=610)
    assert bench.store.attempts(job_id)[0].outcome is Outcome.OUT_OF_MEMORY
    assert bench.store.attempts(job_id)[0].reason == (
        "needed more than the 600 MiB reserved; queued again with a larger reservation"
    )
    assert bench.launch(job_id).reservation_bytes == 800 * MiB


def test_that_is_none_of_its_three_tries(bench: Bench) -> None:
    job_id = running(bench, memory="300 MiB", left_mib=200)
    for held_mib in (210, 310, 460, 700):
        assert bench.job(job_id).outcome is None
        bench.end(job_id, signal=9, killed_for=KilledFor.MEMORY, resident_peak_bytes=held_mib * MiB)
        bench.tick()
    assert [one.reservation_bytes // MiB for one in bench.store.attempts(job_id)] == [200, 300, 450, 675]
    assert bench.job(job_id).outcome is Outcome.OUT_OF_MEMORY


def test_what_it_gave_back_just_before_its_end_counts(bench: Bench) -> None:
    """Else it would be half as much again as a reservation that was enough."""
    job_id = running(bench)
    bench.give_back(job_id, 600 * MiB)
    ran_out(bench, job_id, held_mib=610)
    assert bench.launch(job_id).reservation_bytes == 800 * MiB


def test_it_gives_back_nothing_more(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    ran_out(bench, job_id, held_mib=610)
    assert not bench.launch(job_id).gives_back
    bench.begin(job_id)
    bench.end(job_id, exit_code=ExitCode.STOPPED)
    bench.tick()
    assert (bench.launch(job_id).number, bench.launch(job_id).gives_back) == (3, False)


def test_on_a_gpu_it_needed_no_more_than_it_asked_for(bench: Bench) -> None:
    job_id = running(bench, left_mib=600)
    write_record(bench.files(job_id).peak, Peak(peak_bytes=590 * MiB))
    failure = Failure(kind="OutOfMemoryError", message="out of memory", requested_bytes=200 * MiB)
    write_record(bench.files(job_id).failure, failure)
    bench.end(job_id, exit_code=ExitCode.OUT_OF_MEMORY)
    bench.tick()
    assert bench.store.attempts(job_id)[0].peak_bytes == 600 * MiB


def test_its_like_is_placed_by_what_it_needed_in_the_end(bench: Bench) -> None:
    """The prediction was 500 MiB; what was kept of the reservation for a while says nothing of how good it was."""
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {job_id: Reply(key=job_id, components={"all": 500 * MiB}, parameters=5)}
    bench.tick()
    bench.begin(job_id)
    bench.give_back(job_id, 300 * MiB)
    ran_out(bench, job_id, held_mib=310)
    assert bench.launch(job_id).reservation_bytes == 575 * MiB
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED, resident_peak_bytes=320 * MiB)
    bench.tick()
    assert bench.store.history("cpu", "a machine").ratios[Basis.MODELLED] == [0.64]
    like = bench.submit(memory=None, name="the same again")
    bench.tick()
    assert bench.launch(like).reservation_bytes == 352 * MiB
