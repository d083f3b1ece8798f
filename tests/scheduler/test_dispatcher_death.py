"""What becomes of jobs when dispatchers are killed or asked to stop: real dispatchers, parents and workers.

In the worker's place are small scripts.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from builders import MiB
from scripted import Night, killed
from waiting import eventually

from jobs.run_dir import ProcessRecord, write_record
from scheduler.states import Outcome, State

WAITS = """
    touch("ready")
    wait_for("go")
"""


def test_a_job_outlives_its_dispatcher_and_the_next_one_adopts_it(night: Night) -> None:
    dispatcher = night.begin(WAITS + "    succeed()")
    night.wait_for("ready")
    killed(dispatcher)
    adopting = night.run()
    eventually(lambda: night.dispatcher() == adopting.pid, "it to take the post")
    night.file("go").touch()
    assert adopting.wait(timeout=60) == 0
    assert (night.begun(), night.outcomes()) == ([1], [Outcome.SUCCEEDED])


@pytest.mark.parametrize(
    ("ending", "exit_code", "outcome"),
    [("sys.exit(17)", 17, Outcome.FAILED), ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, Outcome.FAILED)],
    ids=["exit code", "signal"],
)
def test_how_a_job_ended_and_its_peak_are_known_though_no_dispatcher_was_alive(
    night: Night, ending: str, exit_code: int, outcome: Outcome
) -> None:
    dispatcher = night.begin(
        f"""
        if attempt == 2:
            succeed()
        held = bytearray(30 << 20)
        held[::4096] = bytes(len(held[::4096]))
        touch("ready")
        wait_for("go")
        {ending}
        """
    )
    night.wait_for("ready")
    killed(dispatcher)
    night.file("go").touch()
    eventually(night.attempt_files().exit.exists, "the attempt to end")
    night.morning()
    first, second = night.attempts()
    assert (first.exit_code, first.outcome, second.outcome) == (exit_code, outcome, Outcome.SUCCEEDED)
    assert first.peak_bytes is not None
    assert 30 * MiB <= first.peak_bytes <= 60 * MiB


def test_after_a_reboot_a_job_is_lost_queued_again_and_goes_on_and_a_reused_pid_is_left_alone(night: Night) -> None:
    dispatcher = night.begin(WAITS.replace("wait", "if attempt == 1: wait") + "    succeed()")
    night.wait_for("ready")
    parent, worker = night.processes()
    killed(dispatcher)
    parent.send(signal.SIGKILL)
    worker.send(signal.SIGKILL)
    innocent = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    reused = {"parent_pid": innocent.pid, "worker_pid": innocent.pid}
    ticks = {"parent_start_ticks": 1, "worker_start_ticks": parent.start_ticks}
    write_record(night.attempt_files().process, ProcessRecord(**reused, **ticks, boot_id="the boot before"))
    night.morning()
    assert (night.begun(), night.outcomes()) == ([1, 2], [Outcome.LOST, Outcome.SUCCEEDED])
    innocent.communicate(b"")
    assert innocent.returncode == 0


# -- asked to stop ----------------------------------------------------------------------------------------------

STOPS = """
    signal.signal(signal.SIGTERM, lambda *_: touch("asked"))
    touch("ready")
    if attempt == 2:
        succeed()
    wait_for("asked")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_has_jobs_checkpoint_and_queues_them_again(night: Night, number: signal.Signals) -> None:
    dispatcher = night.begin(STOPS + "    sys.exit(75)")
    night.wait_for("ready")
    dispatcher.send_signal(number)
    assert dispatcher.wait(timeout=60) == 130
    assert (night.state(), night.outcomes()) == (State.QUEUED, [Outcome.STOPPED])
    night.morning()
    assert night.begun() == [1, 2]


def test_a_job_that_does_not_stop_is_killed_after_its_grace_time_and_queued_again(night: Night) -> None:
    dispatcher = night.begin(STOPS + "    signal.pause()", grace_s=0.3)
    night.wait_for("ready")
    dispatcher.send_signal(signal.SIGINT)
    dispatcher.wait(timeout=60)
    assert (night.state(), night.outcomes()) == (State.QUEUED, [Outcome.STOPPED])


def test_one_that_stops_has_left_its_post_so_that_whoever_queues_jobs_meanwhile_starts_another(night: Night) -> None:
    stopping = night.begin(STOPS + "    wait_for('go'); sys.exit(75)")
    night.wait_for("ready")
    stopping.send_signal(signal.SIGTERM)
    night.wait_for("asked")
    assert (night.dispatcher(), stopping.poll()) == (None, None)
    another = night.run()
    night.file("go").touch()
    assert another.wait(timeout=60) == 0
    assert night.outcomes() == [Outcome.STOPPED, Outcome.SUCCEEDED]


def test_a_second_ctrl_c_ends_it_at_once_and_nothing_is_lost(night: Night) -> None:
    """The worker goes on to its checkpoint by itself; whoever comes next finds it there."""
    dispatcher = night.begin(STOPS + "    wait_for('go'); sys.exit(75)")
    night.wait_for("ready")
    dispatcher.send_signal(signal.SIGINT)
    night.wait_for("asked")
    dispatcher.send_signal(signal.SIGINT)
    assert dispatcher.wait(timeout=20) == 130
    _, worker = night.processes()
    assert worker.is_alive()
    night.file("go").touch()
    night.morning()
    assert (night.begun(), night.outcomes()) == ([1, 2], [Outcome.STOPPED, Outcome.SUCCEEDED])


def test_when_nobody_reads_what_run_prints_any_more_it_goes_on(night: Night) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as into:
        dispatcher = night.begin(WAITS + "    succeed()", into=into)
    with os.fdopen(reading, "rb") as reader:
        assert b"job 1 job starting" in reader.readline()
    night.wait_for("ready")
    night.file("go").touch()
    assert dispatcher.wait(timeout=60) == 0, night.output.read_text()
    assert night.outcomes() == [Outcome.SUCCEEDED]


def test_when_what_run_prints_finds_no_room_its_jobs_go_on_to_their_end(night: Night) -> None:
    with Path("/dev/full").open("wb") as into:
        dispatcher = night.begin(WAITS + "    succeed()", into=into)
    night.wait_for("ready")
    night.file("go").touch()
    assert dispatcher.wait(timeout=60) == 1
    assert "No space left on device" in night.output.read_text()
    assert night.outcomes() == [Outcome.SUCCEEDED]


def test_a_dispatcher_told_by_nohup_not_to_mind_that_the_terminal_closes_goes_on(night: Night) -> None:
    ignoring = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as what is started now inherits it
    try:
        dispatcher = night.begin(WAITS + "    succeed()")
    finally:
        signal.signal(signal.SIGHUP, ignoring)
    night.wait_for("ready")
    dispatcher.send_signal(signal.SIGHUP)
    night.file("go").touch()
    assert dispatcher.wait(timeout=60) == 0
    assert night.outcomes() == [Outcome.SUCCEEDED]
