"""Parent processes on a disk that is really full: they live on, and nothing that they know is lost."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from attempts import Run
from builders import MiB, launch
from small_disk import SmallDisk
from waiting import eventually

from jobs.run_dir import KilledFor, RunDir
from scheduler.log import CappedLog, LossyFile
from scheduler.supervisor import Supervisor

SCRIPT = """
    import os, signal, sys, time
    here = os.path.dirname(__file__)  # on another disk
    def touch(name):
        open(os.path.join(here, name), "w").close()
    def wait_for(name):
        while not os.path.exists(os.path.join(here, name)):
            time.sleep(0.01)
"""


@pytest.fixture
def run(small_disk: SmallDisk, tmp_path: Path) -> Iterator[Run]:
    """An attempt whose run directory is on the small disk, not started yet; its worker is `write_worker`'s."""
    files = RunDir(small_disk.path / "run")
    files.path.mkdir()
    command = [sys.executable, "-I", "-S", str(tmp_path / "worker.py")]
    made = Run(Supervisor(command), files, files.attempt(1), command)
    yield made
    small_disk.make_room()
    made.wait()


def start(run: Run, script: str, **limits: object) -> Path:
    """Start it with a script in the worker's place; the folder in which they speak to each other."""
    program = Path(run.worker[-1])
    program.write_text(dedent(SCRIPT) + dedent(script))
    run.supervisor.start(run.files, launch(**limits))  # type: ignore[arg-type]
    return program.parent


def test_how_a_worker_ended_is_recorded_once_there_is_room(run: Run, small_disk: SmallDisk) -> None:
    folder = start(run, "touch('ready'); wait_for('go'); sys.exit(7)")
    eventually((folder / "ready").exists, "the worker to start")
    small_disk.fill()
    parent, worker = run.processes()
    (folder / "go").touch()
    notice = eventually(run.attempt.notice.read, "a notice")
    assert notice.endswith(f"needed in {run.attempt.folder}")
    assert not worker.is_alive()
    assert parent.is_alive()
    assert run.supervisor.poll(run.attempt) is None
    small_disk.make_room()
    assert run.wait().exit_code == 7


def test_a_worker_is_held_to_its_memory_though_nobody_can_be_told_who_it_is(run: Run, small_disk: SmallDisk) -> None:
    grow = "wait_for('go'); held = bytearray(80 << 20); held[::4096] = bytes(len(held[::4096])); signal.pause()"
    folder = start(run, grow, resident_limit_bytes=40 * MiB)
    small_disk.fill()  # before the parent process has started Python
    assert not run.attempt.process.exists()
    (folder / "go").touch()
    eventually(run.attempt.notice.read, "the exit record to wait for room")
    small_disk.make_room()
    assert run.wait().killed_for is KilledFor.MEMORY


def test_what_a_worker_prints_is_left_out_and_counted(run: Run, small_disk: SmallDisk) -> None:
    folder = start(
        run,
        """
        print("before", flush=True); touch("ready"); wait_for("full")
        print("x" * 100_000, flush=True); touch("printed"); wait_for("room")
        print("after", flush=True)
        """,
    )
    eventually((folder / "ready").exists, "the worker to start")
    small_disk.fill()
    (folder / "full").touch()
    eventually((folder / "printed").exists, "the worker to go on printing")
    small_disk.make_room()
    (folder / "room").touch()
    assert run.wait().exit_code == 0
    text = run.files.log.read_text()
    left_out = int(text.partition("[... ")[2].partition(" bytes left out: no room")[0])
    assert 90_000 < left_out <= 100_001
    assert text.index("before") < text.index("left out") < text.index("after")


def test_a_log_goes_on_where_there_is_room_again(small_disk: SmallDisk) -> None:
    log = LossyFile(small_disk.path / "log.txt")
    small_disk.fill()
    log.write(b"lost\n")
    log.write(b"lost, too\n")
    small_disk.make_room()
    log.write(b"kept\n")
    log.close()
    kept = (small_disk.path / "log.txt").read_bytes()
    assert kept == b"\n[... 15 bytes left out: no room on the disk ...]\nkept\n"


def test_a_log_can_be_closed_on_a_full_disk(small_disk: SmallDisk) -> None:
    log = CappedLog(small_disk.path / "log.txt", head_bytes=1)
    small_disk.fill()
    log.write(b"head and tail")
    log.close()
    assert (small_disk.path / "log.txt").read_bytes() == b""
