"""What a worker has started is gone once its attempt is over: real processes, which fork and leave their group."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attempts import Run, Start
from builders import MiB
from gpu import Gpu
from waiting import eventually

from jobs.run_dir import ExitRecord, ProcessRecord, read_record, write_record
from scheduler import leftovers
from scheduler.device import CpuDevice
from scheduler.doctor import check_leftovers
from scheduler.home import Home
from scheduler.leftovers import Leftover
from scheduler.process import Identity, identify, own_identity

ESCAPING = """
    for leave in (os.setsid, os.setpgrp):  # neither is in the worker's process group
        if os.fork() == 0:
            leave()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(f"{leave.__name__}.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename(file.name, leave.__name__)
            while True:
                signal.pause()
    while not (os.path.exists("setsid") and os.path.exists("setpgrp")):
        time.sleep(0.01)
    touch("ready")
"""


def escaped(run: Run) -> list[Identity]:
    run.wait_for("ready")
    found = [identify(int(run.file(name).read_text())) for name in ("setsid", "setpgrp")]
    return [process for process in found if process is not None]


def alive(processes: list[Identity]) -> list[Identity]:
    return [process for process in processes if process.is_alive()]


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exits", "is killed"])
def test_a_process_that_left_the_workers_group_is_gone_when_the_attempt_ends(start: Start, ending: str) -> None:
    run = start(ESCAPING + "    " + ending)
    run.wait()
    assert alive(escaped(run)) == []


def test_when_worker_and_parent_are_killed_at_once_the_rest_is_gone_before_the_job_may_start_again(
    start: Start,
) -> None:
    run = start(ESCAPING + "    signal.pause()")
    left = escaped(run)
    assert len(alive(left)) == 2
    parent, worker = run.processes()
    parent.send(signal.SIGSTOP)  # so that it does not notice the worker's end
    for process in (worker, parent):
        process.send(signal.SIGKILL)
    run.wait()
    assert alive(left) == []


def test_an_attempt_of_which_a_process_lives_on_is_not_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("touch('ready'); signal.pause()")
    run.wait_for("ready")
    for process in run.processes():
        process.send(signal.SIGKILL)
    eventually(lambda: not any(process.is_alive() for process in run.processes()), "their end")
    with monkeypatch.context() as unkillable:
        unkillable.setattr(leftovers, "kill", lambda _: True)
        assert run.supervisor.poll(run.attempt) is None
        assert run.supervisor.poll(run.attempt) is None
    assert run.wait() == read_record(run.attempt.exit, ExitRecord)


def test_a_worker_whose_parent_died_before_it_wrote_who_they_are_is_ended(start: Start) -> None:
    run = start("touch('ready'); signal.pause()")
    run.wait_for("ready")
    parent, worker = run.processes()
    parent.send(signal.SIGKILL)
    run.attempt.process.unlink()
    run.wait()
    assert not worker.is_alive()
    write_record(run.attempt.process, _as_record(parent, worker))  # for the fixture to see that nobody is left


def test_a_worker_that_lost_its_parent_before_it_could_look_ends_itself(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    environment = {**os.environ, "GPUQ_PARENT_PID": str(gone.pid)}
    orphan = [sys.executable, "-P", "-m", "jobs.worker", str(tmp_path), "1"]
    done = subprocess.run(orphan, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")


# -- what is found ----------------------------------------------------------------------------------------------


@pytest.fixture
def left_behind(home: Home) -> Iterator[Callable[[int], "subprocess.Popen[bytes]"]]:
    """Starts a process as a worker of a job's first attempt does, without anybody to watch it."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(job_id: int) -> "subprocess.Popen[bytes]":
        marked = leftovers.mark(home.run_dir(job_id).attempt(1))
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={**os.environ, **marked}))
        environ = Path(f"/proc/{started[-1].pid}/environ")
        eventually(lambda: environ.read_bytes() != b"", "its environment to be there: a moment after Popen returns")
        return started[-1]

    yield start_one
    for one in started:
        one.kill()
        one.communicate()


LeftBehind = Callable[[int], "subprocess.Popen[bytes]"]


def test_a_process_of_an_attempt_that_nobody_watches_is_found(home: Home, left_behind: LeftBehind) -> None:
    pid = left_behind(7).pid
    assert [(one.process, one.job_id) for one in leftovers.find(home.runs)] == [(identify(pid), 7)]


def test_one_of_another_state_directory_is_not(left_behind: LeftBehind, tmp_path: Path) -> None:
    left_behind(7)
    assert list(leftovers.find(Home(tmp_path).runs)) == []


def test_a_running_attempt_leaves_nothing_behind_yet(start: Start) -> None:
    run = start(ESCAPING + "    signal.pause()")
    left = escaped(run)
    assert list(leftovers.find(run.files.path.parent)) == []
    assert len(alive(left)) == 2


def test_only_processes_of_the_attempt_are_killed(home: Home, left_behind: LeftBehind) -> None:
    ours, other = left_behind(7), left_behind(8)
    assert leftovers.kill(home.run_dir(7).attempt(1))
    assert ours.wait(timeout=20) == -signal.SIGKILL
    assert other.poll() is None
    assert not leftovers.kill(home.run_dir(7).attempt(1))


def test_an_attempt_reached_by_another_path_is_the_same(home: Home, left_behind: LeftBehind, tmp_path: Path) -> None:
    left_behind(7)
    alias = tmp_path / "alias"
    alias.symlink_to(home.path)
    assert leftovers.kill(Home(alias).run_dir(7).attempt(1))


# -- what `gpuq doctor` says of it ------------------------------------------------------------------------------


def test_doctor_tells_what_is_left_of_which_job_how_much_it_holds_and_how_to_end_it(
    home: Home, left_behind: LeftBehind
) -> None:
    pid = left_behind(7).pid
    check = check_leftovers(list(leftovers.find(home.runs)), CpuDevice())
    assert check.found.startswith(f"left behind by jobs: {pid} of job 7 (")
    assert check.found.endswith("iB resident)")
    assert check.advice == f"kill -9 {pid}"


def test_doctor_tells_the_gpus_memory_that_is_held() -> None:
    check = check_leftovers([Leftover(own_identity(), 7)], Gpu(listed_bytes=300 * MiB))
    assert "(300 MiB of the GPU, " in check.found


def test_doctor_tells_resident_memory_alone_when_the_gpu_cannot_be_read() -> None:
    gpu = Gpu()
    gpu.error = "GPU 0 cannot be read: Driver Not Loaded"
    check = check_leftovers([Leftover(own_identity(), 7)], gpu)
    assert "of the GPU" not in check.found
    assert not check.is_right


def test_doctor_is_content_when_nothing_is_left() -> None:
    assert check_leftovers([], CpuDevice()).is_right


def _as_record(parent: Identity, worker: Identity) -> ProcessRecord:
    return ProcessRecord(
        parent_pid=parent.pid,
        parent_start_ticks=parent.start_ticks,
        worker_pid=worker.pid,
        worker_start_ticks=worker.start_ticks,
        boot_id=worker.boot_id,
    )
