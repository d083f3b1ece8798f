"""Everybody at once: what people want, what is killed, and dispatchers, over the same jobs."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from gpuq_process import GPUQ, Gpuq, eventually
from night import HERE, SMALL, TOO_LARGE, Night, Zygote

from scheduler.background import running_dispatcher
from scheduler.process import inheriting
from scheduler.states import Outcome, State
from scheduler.store import Store

JOBS, RACERS, ATTEMPTS = 6, 3, 16
PATIENCE_S = 240

# What may happen to a job in a state, and where it is then.
COURSE = {
    ("queued", "placed"): "starting",
    ("queued", "finished"): "finished",
    ("queued", "paused"): "queued",
    ("queued", "resumed"): "queued",
    ("starting", "running"): "running",
    ("finished", "retried"): "queued",
    **{(live, "requeued"): "queued" for live in ("starting", "running")},
    **{(live, "finished"): "finished" for live in ("starting", "running")},
    **{(live, wish): live for live in ("starting", "running") for wish in ("cancel wished", "pause wished", "resumed")},
}


def course(store: Store, job_id: int) -> list[str]:
    """Where a job has been, from event to event; fails at one that may not happen there."""
    states = ["queued"]
    [first, *rest] = store._db.execute("SELECT kind FROM events WHERE job_id = ? ORDER BY id", (job_id,))
    assert first["kind"] == "submitted"
    for row in rest:
        assert (states[-1], row["kind"]) in COURSE, f"job {job_id}: {row['kind']} after {states}"
        states.append(COURSE[states[-1], row["kind"]])
    return states


@pytest.fixture
def dispatched(night: Night) -> Iterator[Night]:
    """With jobs that take a moment, and a dispatcher at work on them."""
    night.submit(*[SMALL.replace("60 MiB", "30 MiB")] * JOBS)
    zygote = Zygote(["commands"])
    one = Night(night.folder, zygote)
    arguments = ("start", "--foreground", "--device", "cpu", "--memory", "100MiB")
    serving = threading.Thread(target=one.gpuq, args=arguments, kwargs={"GPUQ_TEST_STEP_S": "0.05"}, daemon=True)
    serving.start()
    store = Store(night.home.store)
    eventually(lambda: running_dispatcher(store) is not None, "a dispatcher runs")
    yield night
    if (dispatcher := running_dispatcher(store)) is not None:
        dispatcher.send(signal.SIGTERM)
    serving.join()
    store.close()
    zygote.close()


def test_wishes_and_kills_that_race_leave_each_job_in_one_terminal_state(dispatched: Night) -> None:
    night = dispatched
    command = [sys.executable, str(HERE / "racer.py"), str(night.home.path)]
    racers = [subprocess.Popen([*command, str(seed), str(ATTEMPTS)]) for seed in range(RACERS)]
    assert [racer.wait(PATIENCE_S) for racer in racers] == [0] * RACERS
    store = Store(night.home.store)
    store.resume_queue()
    for job in store.jobs():
        store.resume(job.id)
    eventually(lambda: not store.has_unfinished(), "all jobs to end")
    store.check()
    for job in store.jobs():
        assert course(store, job.id)[-1] == job.state == State.FINISHED
        attempts = store.attempts(job.id)
        assert [one.number for one in attempts] == list(range(1, len(attempts) + 1))
        assert not (night.home.run_dir(job.id).path / "two at once").exists()
    store.close()
    assert "Traceback" not in night.said()


def test_two_dispatchers_ten_submitters_and_ten_readers_at_once(gpuq: Gpuq) -> None:
    job = gpuq.write("job.toml", TOO_LARGE)  # ends without a worker
    commands = [
        *[("start", "--device", "cpu")] * 2,
        *[("submit", "--quiet", "--device", "cpu", str(job))] * 10,
        *[("status", "--device", "cpu")] * 10,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    surroundings = {"cwd": gpuq.folder, "env": gpuq.environment}
    everybody = [subprocess.Popen([*GPUQ, *command], **pipes, **surroundings) for command in commands]
    said = [one.communicate(timeout=PATIENCE_S) for one in everybody]
    assert [one.returncode for one in everybody] == [0] * len(commands)
    assert [errors for _, errors in said] == [""] * len(commands)
    assert sorted(int(output) for output, _ in said[2:12]) == list(range(1, 11))

    store = Store(gpuq.home.store)
    eventually(lambda: not store.has_unfinished(), "all jobs to end")
    assert [(job.outcome, course(store, job.id)) for job in store.jobs()] == [
        (Outcome.FAILED, ["queued", "finished"])
    ] * 10
    eventually(lambda: len(dispatchers(gpuq)) == 1, "the second dispatcher to leave")
    assert dispatchers(gpuq) == {running_dispatcher(store)}
    store.close()


def dispatchers(gpuq: Gpuq) -> set[object]:
    """All processes that work in its state directory."""
    return {process for process, home in inheriting("GPUQ_HOME") if home == str(gpuq.home.path)}
