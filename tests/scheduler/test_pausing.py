"""Pausing and resuming, jobs and the whole queue: in the store, by the dispatcher, and in words."""

import pytest
from bench import Bench
from builders import MiB, prediction
from click.testing import CliRunner
from scripted import Night
from steps import Queue

from jobs.run_dir import ExitCode
from scheduler.cli import cli
from scheduler.errors import UnknownJobError
from scheduler.home import Home
from scheduler.pausing import held_in_words, pause_jobs, pause_queue, resume_jobs, resume_queue
from scheduler.process import own_identity
from scheduler.requests import retry_jobs, wait_for
from scheduler.states import Outcome, State, Wish
from scheduler.store import Store

# -- a job, in the store ----------------------------------------------------------------------------------------


def test_a_paused_job_is_queued_and_says_why_it_waits(queue: Queue, store: Store) -> None:
    job = store.job(queue.paused())
    assert (job.state, job.wish, job.reason) == (State.QUEUED, Wish.PAUSE, "paused")


def test_a_paused_job_is_not_placed_whoever_saw_it_queued_before(queue: Queue, store: Store) -> None:
    job_id = queue.submitted()
    [seen] = store.startable()
    store.pause(job_id)
    assert store.place(seen.id, MiB, prediction()) is None
    assert store.live_attempts() == []


def test_a_paused_job_keeps_its_reason_whatever_is_said_of_it(queue: Queue, store: Store) -> None:
    job_id = queue.paused()
    store.set_reason(job_id, "needs 6 GiB")
    assert store.job(job_id).reason == "paused"


def test_a_resumed_job_is_as_if_it_had_never_been_paused(queue: Queue, store: Store) -> None:
    before = store.job(queue.submitted())
    store.pause(before.id)
    store.resume(before.id)
    assert store.job(before.id) == before


def test_a_live_job_that_is_paused_is_held_when_its_attempt_has_ended(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.pause(job_id)
    queue.end(job_id, Outcome.STOPPED, requeue=True, reason="stopped")
    job = store.job(job_id)
    assert (job.state, job.is_paused, job.reason) == (State.QUEUED, True, "paused")
    assert store.attempts(job_id)[-1].reason == "stopped"


def test_a_pause_does_not_outlive_the_end_of_its_job(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.pause(job_id)
    queue.end(job_id, Outcome.FAILED)
    assert store.retry(job_id)
    assert store.job(job_id).wish is None


def test_a_job_resumed_before_it_has_stopped_goes_on(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.pause(job_id)
    store.resume(job_id)
    queue.end(job_id, Outcome.STOPPED, requeue=True)
    assert [job.id for job in store.startable()] == [job_id]


@pytest.mark.parametrize("cancels_first", [True, False])
def test_cancelling_wins_over_pausing_in_either_order(queue: Queue, store: Store, cancels_first: bool) -> None:
    job_id = queue.running()
    for verb in (store.cancel, store.pause) if cancels_first else (store.pause, store.cancel):
        verb(job_id)
    queue.end(job_id, Outcome.STOPPED, requeue=True)
    assert store.job(job_id).outcome is Outcome.CANCELLED


def test_resuming_does_not_take_back_a_cancel(queue: Queue, store: Store) -> None:
    job_id = queue.running()
    store.cancel(job_id)
    store.resume(job_id)
    assert store.job(job_id).wish is Wish.CANCEL


# -- the whole queue, in the store ------------------------------------------------------------------------------


def test_while_the_queue_is_paused_nothing_is_placed_that_is_submitted_later_neither(
    queue: Queue, store: Store
) -> None:
    earlier = queue.submitted()
    store.pause_queue()
    later = queue.submitted()
    assert [store.place(job_id, MiB, prediction()) for job_id in (earlier, later)] == [None, None]
    assert store.startable() == []


def test_a_job_paused_by_itself_stays_so_when_the_queue_is_resumed(queue: Queue, store: Store) -> None:
    free, paused = queue.submitted(), queue.paused()
    store.pause_queue()
    assert store.resume_queue()
    assert [job.id for job in store.startable()] == [free]
    assert store.job(paused).is_paused


def test_a_pause_that_lets_jobs_go_on_does_not_replace_one_that_stops_them(store: Store) -> None:
    store.pause_queue()
    store.pause_queue("jobs have failed", running_go_on=True)
    pause = store.queue_pause()
    assert pause is not None
    assert (pause.reason, pause.running_go_on) == (None, False)


# -- the dispatcher ---------------------------------------------------------------------------------------------


def stop(bench: Bench, job_id: int) -> None:
    bench.end(job_id, exit_code=ExitCode.STOPPED, stop_requested=True)
    bench.tick()


def test_a_running_job_that_is_paused_is_stopped_and_its_memory_goes_to_another(bench: Bench) -> None:
    job_id = bench.started(memory="800 MiB")
    other = bench.submit(memory="800 MiB")
    bench.store.pause(job_id)
    bench.tick()
    assert bench.engine.asked_to_stop == {bench.files(job_id).folder}
    stop(bench, job_id)
    assert bench.starting() == [other]
    assert bench.job(job_id).reason == "paused"


def test_a_resumed_job_goes_on_in_another_attempt(bench: Bench) -> None:
    job_id = bench.started()
    bench.store.pause(job_id)
    stop(bench, job_id)
    bench.store.resume(job_id)
    bench.tick()
    assert bench.launch(job_id).number == 2


def test_a_paused_job_of_higher_priority_keeps_nobody_waiting(bench: Bench) -> None:
    first, second = bench.submit(priority=1, memory="900 MiB"), bench.submit(memory="900 MiB")
    bench.store.pause(first)
    bench.tick()
    assert bench.starting() == [second]


def test_a_paused_job_is_not_estimated_until_it_is_resumed(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.store.pause(job_id)
    bench.tick()
    assert bench.estimator.pending == frozenset()
    bench.store.resume(job_id)
    bench.tick()
    assert bench.estimator.pending == {job_id}


def test_pausing_the_queue_stops_what_runs_and_resuming_it_goes_on(bench: Bench) -> None:
    job_id = bench.started()
    bench.store.pause_queue()
    bench.tick()
    assert bench.engine.asked_to_stop == {bench.files(job_id).folder}
    stop(bench, job_id)
    assert bench.job(job_id).state is State.QUEUED
    bench.store.resume_queue()
    bench.tick()
    assert bench.launch(job_id).number == 2


def test_a_paused_queue_starts_nothing_even_where_all_would_fit(bench: Bench) -> None:
    bench.store.pause_queue()
    bench.submit(memory="1 MiB")
    bench.tick()
    assert bench.starting() == []


TWO_ATTEMPTS = """
    if attempt == 2 and os.path.exists("checkpoint"):
        succeed()
    signal.signal(signal.SIGTERM, lambda *_: touch("asked"))
    touch("ready")
    wait_for("asked")
    touch("checkpoint")
    sys.exit(75)
"""


def test_a_running_job_is_paused_at_its_checkpoint_and_goes_on_from_there(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, and a script in the worker's place."""
    monkeypatch.setenv("GPUQ_HOME", str(night.home.path))
    dispatcher = night.begin(TWO_ATTEMPTS)
    night.wait_for("ready")
    assert CliRunner().invoke(cli, ["pause", "1"]).stdout == "job 1 will be held after its checkpoint\n"
    assert dispatcher.wait(timeout=60) == 1  # only paused jobs are left
    [job] = night.jobs()
    assert (job.state, job.is_paused, job.reason) == (State.QUEUED, True, "paused")
    assert CliRunner().invoke(cli, ["resume", "--no-start", "1"]).stdout.startswith("job 1 resumed\n")
    night.morning()
    assert (night.begun(), night.outcomes()) == ([1, 2], [Outcome.STOPPED, Outcome.SUCCEEDED])


# -- what people are told ---------------------------------------------------------------------------------------


def test_each_job_that_is_to_be_paused_gets_its_line(home: Home, queue: Queue, store: Store) -> None:
    store.register_dispatcher(own_identity())
    ids = [queue.submitted(), queue.running(), queue.paused(), queue.finished(), queue.running()]
    store.cancel(ids[-1])
    assert list(pause_jobs(home, ids)) == [
        "job 1 paused",
        "job 2 will be held after its checkpoint",
        "job 3 is paused already",
        "job 4 had ended already (failed)",
        "job 5 is being cancelled",
    ]


def test_an_unknown_id_pauses_nothing(home: Home, queue: Queue, store: Store) -> None:
    job_id = queue.submitted()
    with pytest.raises(UnknownJobError):
        list(pause_jobs(home, [job_id, 7]))
    assert not store.job(job_id).is_paused


def test_pausing_what_runs_without_a_dispatcher_says_that_nobody_will_stop_it(home: Home, queue: Queue) -> None:
    assert list(pause_jobs(home, [queue.running()]))[-1] == (
        "no dispatcher is running to stop what runs; `gpuq start` starts it"
    )


def test_resuming_says_what_else_is_to_be_resumed(home: Home, queue: Queue) -> None:
    paused, other = queue.paused(), queue.paused()
    assert list(pause_queue(home)) == ["the queue is paused; `gpuq resume --all` goes on"]
    assert list(resume_jobs(home, [paused, paused])) == [
        f"job {paused} resumed",
        f"job {paused} is not paused",
        "the queue is paused; `gpuq resume --all` goes on",
    ]
    assert list(resume_queue(home)) == ["the queue goes on", f"paused by themselves, and still so: {other}"]
    assert next(iter(resume_queue(home))) == "the queue is not paused"


def test_pausing_the_queue_names_what_will_stop(home: Home, queue: Queue, store: Store) -> None:
    store.register_dispatcher(own_identity())
    job_id = queue.running()
    assert list(pause_queue(home)) == [
        f"the queue is paused; will be queued again after a checkpoint: {job_id}; `gpuq resume --all` goes on"
    ]


def test_the_way_on_can_be_typed_as_it_is_told(queue: Queue, store: Store) -> None:
    jobs = [store.job(queue.paused()) for _ in range(4)]
    told = held_in_words([jobs[0], jobs[2], jobs[3]], None)
    assert told == "paused: 1, 3-4; `gpuq resume 1 3-4` queues them again"


def test_a_job_retried_into_a_paused_queue_starts_no_dispatcher(home: Home, queue: Queue, store: Store) -> None:
    job_id = queue.finished()
    store.pause_queue()
    assert retry_jobs(home, [job_id], start=True, device="cpu", memory_bytes=None) == ([job_id], None)


def test_waiting_says_what_is_paused_and_goes_on_without_a_dispatcher_until_it_has_ended(
    home: Home, queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = queue.paused()
    times = iter(range(0, 1000, 100))
    monkeypatch.setattr("scheduler.requests.time.monotonic", lambda: next(times))

    def meanwhile(_seconds: float) -> None:
        if next(times) > 500:
            store.cancel(job_id)

    monkeypatch.setattr("scheduler.requests.time.sleep", meanwhile)
    assert not wait_for(home, [job_id])
    assert capsys.readouterr().err == "paused: 1; `gpuq resume 1` queues it again\n"
