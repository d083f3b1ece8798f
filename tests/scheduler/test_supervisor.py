"""How attempts start, end and are ended: real parents, and small scripts in the worker's place."""

import fcntl
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from attempts import Run, Start
from builders import MiB, launch
from waiting import eventually

from jobs.run_dir import ExitRecord, KilledFor, ProcessRecord, read_record, write_record
from scheduler.log import HEAD_BYTES, TAIL_BYTES, last_lines
from scheduler.supervisor import Supervisor

# -- how a worker ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 75])
def test_an_exit_code_is_recorded(start: Start, code: int) -> None:
    record = start(f"sys.exit({code})").wait()
    assert (record.exit_code, record.signal, record.killed_for, record.stop_requested) == (code, None, None, False)


def test_a_worker_killed_from_outside_is_recorded_with_its_signal(start: Start) -> None:
    run = start("touch('ready'); signal.pause()")
    run.wait_for("ready")
    run.processes()[1].send(signal.SIGKILL)
    record = run.wait()
    assert (record.exit_code, record.signal, record.killed_for) == (None, signal.SIGKILL, None)


def test_a_record_tells_when_how_long_and_how_much(start: Start) -> None:
    record = start("held = bytearray(60 << 20); held[::4096] = bytes(len(held[::4096])); time.sleep(0.2)").wait()
    taken = datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)
    assert 0.2 <= record.elapsed_s <= taken.total_seconds() + 1  # the clock of the records counts whole seconds
    assert 60 * MiB <= record.resident_peak_bytes <= 120 * MiB


def test_a_worker_learns_its_attempt_and_its_environment(start: Start) -> None:
    run = start("print(sys.argv[1:], os.environ['GPUQ_TEST'], os.getcwd() == sys.argv[1])")
    run.wait()
    assert last_lines(run.files.log, 1) == [f"['{run.files.path}', '1'] from the launch True"]


# -- stopping ---------------------------------------------------------------------------------------------------


def stop_and_wait(run: Run) -> ExitRecord:
    """As the dispatcher does it: asked again each tick, until it has ended."""

    def tick() -> ExitRecord | None:
        run.supervisor.stop(run.attempt)
        return run.supervisor.poll(run.attempt)

    return eventually(tick, "the attempt to end")


def test_a_stop_reaches_the_worker_once(start: Start) -> None:
    run = start(
        """
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        touch("ready")
        signal.pause()
        time.sleep(0.3)  # more would come in the meantime
        sys.exit(70 + len(asked))
        """
    )
    run.wait_for("ready")
    record = stop_and_wait(run)
    assert (record.exit_code, record.stop_requested, record.killed_for) == (71, True, None)


def test_a_worker_that_does_not_stop_is_killed_after_its_grace_time(start: Start) -> None:
    run = start("signal.signal(signal.SIGTERM, signal.SIG_IGN); touch('ready'); signal.pause()", grace_s=0.2)
    run.wait_for("ready")
    record = stop_and_wait(run)
    assert (record.signal, record.killed_for, record.stop_requested) == (signal.SIGKILL, KilledFor.GRACE, True)
    assert record.elapsed_s >= 0.2


def test_asking_before_the_start_is_harmless(prepare: Start) -> None:
    run = prepare("")
    run.supervisor.stop(run.attempt)
    assert not run.attempt.folder.exists()


def test_a_stop_is_never_sent_to_a_process_that_took_over_the_pid(prepare: Start) -> None:
    run, innocent = prepare(""), subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    write_record(
        run.attempt.process,
        ProcessRecord(
            parent_pid=innocent.pid, parent_start_ticks=1, worker_pid=innocent.pid, worker_start_ticks=1, boot_id="old"
        ),
    )
    run.supervisor.stop(run.attempt)
    innocent.communicate(b"")
    assert innocent.returncode == 0


# -- what a worker must not do ----------------------------------------------------------------------------------


def test_a_worker_above_its_limit_is_killed_for_memory(start: Start) -> None:
    run = start(
        "held = bytearray(80 << 20); held[::4096] = bytes(len(held[::4096])); signal.pause()",
        resident_limit_bytes=40 * MiB,
    )
    record = run.wait()
    assert (record.signal, record.killed_for) == (signal.SIGKILL, KilledFor.MEMORY)
    assert record.resident_peak_bytes > 40 * MiB


def test_a_worker_is_held_to_what_it_has_kept_of_its_reservation(start: Start) -> None:
    run = start(
        """
        held = bytearray(80 << 20); held[::4096] = bytes(len(held[::4096]))
        with open("attempts/1/progress.json", "w") as file:
            file.write('{"parameters": 1, "resumed_from_step": 0, "reservation_bytes": %d}' % (40 << 20))
        signal.pause()
        """,
        resident_limit_bytes=400 * MiB,
    )
    assert run.wait().killed_for is KilledFor.MEMORY


def test_a_worker_below_its_limit_is_left_alone(start: Start) -> None:
    assert start("time.sleep(0.3)", resident_limit_bytes=40 * MiB).wait().exit_code == 0


def is_free(lock: Path) -> bool:
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


FORKING = """
    import fcntl
    lock = open("lock", "ab")
    fcntl.flock(lock, fcntl.LOCK_EX)  # held as long as any of the family lives
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        touch("ready")
        while True:
            signal.pause()
    while not os.path.exists("ready"):
        time.sleep(0.01)
"""


@pytest.mark.parametrize("ending", ["", "    os.kill(os.getpid(), signal.SIGKILL)"], ids=["exits", "is killed"])
def test_children_that_a_worker_leaves_behind_are_killed(start: Start, ending: str) -> None:
    run = start(FORKING + ending)
    run.wait()
    eventually(lambda: is_free(run.file("lock")), "the worker's child to be gone")


def test_a_log_has_a_head_a_tail_and_a_limit(start: Start) -> None:
    run = start(
        """
        print("first line")
        for _ in range(12):
            sys.stdout.write(("x" * 1023 + "\\n") * 1024)
        print("last line")
        """
    )
    assert run.wait().exit_code == 0
    lines = run.files.log.read_bytes().splitlines()
    assert lines[0].startswith(b"--- attempt 1, ")
    assert (lines[1], lines[-1]) == (b"first line", b"last line")
    assert run.files.log.stat().st_size <= HEAD_BYTES + TAIL_BYTES + 100


def test_an_escaped_process_that_prints_for_ever_does_not_keep_an_attempt_alive(start: Start) -> None:
    """Besides its group, it left the mark behind by which it would be found; it ends as nobody reads it any more."""
    run = start(
        """
        import fcntl
        lock = open("lock", "ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sh", ["sh", "-c", ": > ready; while :; do echo for ever; done"], {})
        while not os.path.exists("ready"):
            time.sleep(0.01)
        """
    )
    assert run.wait().exit_code == 0
    eventually(lambda: is_free(run.file("lock")), "the escaped process to be gone")


# -- who dies first ---------------------------------------------------------------------------------------------


def test_a_worker_dies_with_its_parent_process(start: Start) -> None:
    run = start(
        """
        from jobs.worker import die_with_parent
        assert "torch" not in sys.modules
        die_with_parent()
        touch("ready")
        signal.pause()
        """,
        isolated=False,
    )
    run.wait_for("ready")
    parent, worker = run.processes()
    parent.send(signal.SIGKILL)
    eventually(lambda: not worker.is_alive(), "the kernel to end the worker")


def test_a_vanished_attempt_is_reported_once_its_worker_is_gone(start: Start) -> None:
    """This worker outlives its parent process: it is killed before its job can start again."""
    run = start("touch('ready'); signal.pause()")
    run.wait_for("ready")
    parent, worker = run.processes()
    parent.send(signal.SIGKILL)
    record = run.wait()
    assert (record.exit_code, record.signal) == (None, None)
    assert not worker.is_alive()


def test_another_dispatcher_sees_an_attempt_run_and_end(start: Start) -> None:
    run = start(
        """
        touch("ready")
        while not os.path.exists("go"):
            time.sleep(0.01)
        sys.exit(7)
        """
    )
    run.wait_for("ready")
    adopting = Supervisor()
    assert adopting.poll(run.attempt) is None
    assert adopting.worker_pid(run.attempt) == run.processes()[1].pid
    run.file("go").touch()
    record = eventually(lambda: adopting.poll(run.attempt), "the adopted attempt to end")
    assert record.exit_code == 7


def test_another_dispatcher_can_stop_an_attempt(start: Start) -> None:
    run = start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); touch('ready'); signal.pause()")
    run.wait_for("ready")
    run.supervisor, own = Supervisor(), run.supervisor
    assert stop_and_wait(run).exit_code == 75
    run.supervisor = own


def test_how_an_attempt_ended_is_known_even_if_nobody_watched(start: Start) -> None:
    run = start("sys.exit(3)")
    eventually(run.attempt.exit.exists, "the exit record")
    assert Supervisor().poll(run.attempt) == run.wait()


def test_an_attempt_that_never_started_is_given_up(prepare: Start) -> None:
    """The dispatcher died between the reservation and the start."""
    run = prepare("")
    record = run.supervisor.poll(run.attempt)
    assert record is not None
    assert (record.exit_code, record.signal) == (None, None)


def test_a_parent_process_that_comes_too_late_leaves_without_a_worker(prepare: Start) -> None:
    run = prepare("touch('started')")
    write_record(run.attempt.launch, launch())
    given_up = run.supervisor.poll(run.attempt)
    late = [sys.executable, "-P", "-m", "scheduler.parent", str(run.files.path), "1", *run.worker]
    subprocess.run(late, check=True, timeout=60)
    assert not run.file("started").exists()
    assert read_record(run.attempt.exit, ExitRecord) == given_up


def test_an_attempt_whose_parent_holds_the_lock_is_not_given_up(prepare: Start) -> None:
    """It may not have written anything yet."""
    run = prepare("")
    run.attempt.folder.mkdir(parents=True)
    with run.attempt.lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run.supervisor.poll(run.attempt) is None
    assert run.supervisor.poll(run.attempt) is not None


def test_an_attempt_of_an_earlier_boot_is_lost_and_nobody_is_signalled(prepare: Start) -> None:
    run, innocent = prepare(""), subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    ticks = int(Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19])
    process = {"parent_pid": os.getpid(), "parent_start_ticks": 1}
    worker = {"worker_pid": innocent.pid, "worker_start_ticks": ticks}
    write_record(run.attempt.process, ProcessRecord(**process, **worker, boot_id="an earlier boot"))
    assert run.supervisor.poll(run.attempt) is not None
    innocent.communicate(b"")
    assert innocent.returncode == 0
