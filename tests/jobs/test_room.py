"""Writing on a disk that is really full: nothing is half written, what is missing is named, and it waits for room."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_disk import SmallDisk, mounted
from tiny import STEPS, after, assert_same, job, launch, train, trainer, user_job
from torch import nn

from augment.cache import save_array
from jobs.checkpoint import Position, load_checkpoint, save_checkpoint
from jobs.errors import GpuqError
from jobs.estimator import answer
from jobs.notice import Notice
from jobs.optimizer import build_optimizer
from jobs.room import POLL_S, NoRoomError, Room, StopRequested, free_bytes, is_full
from jobs.run_dir import (
    ExitCode,
    Failure,
    Metrics,
    RunDir,
    append_line,
    read_metrics,
    read_record,
    write_atomically,
    write_record,
)
from jobs.spec import DiagnosticsSpec, JobSpec, ModelSpec, Sgd
from jobs.trace_messages import Request
from jobs.worker import run_attempt

SPEC = JobSpec(name="a", model=ModelSpec(name="resv1"))
KiB = 1 << 10


def line(step: int) -> Metrics:
    figures: dict[str, Any] = dict.fromkeys(Metrics.__struct_fields__, 0.5)
    return Metrics(**figures | {"epoch": 1, "step": step, "peak_bytes": 0})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"ballast"}


class TestWriting:
    def test_a_line_without_room_leaves_the_file_as_it_was(self, small_disk: SmallDisk) -> None:
        path = small_disk.path / "metrics.jsonl"
        append_line(path, line(1))
        small_disk.fill()
        written = [path.read_bytes()]

        def append() -> None:
            for step in itertools.count(2):  # the file's last block has room for some
                append_line(path, line(step))
                written.append(path.read_bytes())

        with pytest.raises(NoRoomError) as raised:
            append()
        assert path.read_bytes() == written[-1]
        assert len(read_metrics(path)) == len(written)
        assert raised.value.needed_bytes == len(written[-1]) - len(written[-2])

    def test_a_record_without_room_leaves_the_old_one_and_no_other_file(self, small_disk: SmallDisk) -> None:
        path = small_disk.path / "failure.json"
        write_record(path, Failure(kind="old", message=""))
        small_disk.fill()
        with pytest.raises(NoRoomError, match=f"needed in {small_disk.path}"):
            write_record(path, Failure(kind="new", message="x" * 10 * KiB))
        assert names(small_disk.path) == {"failure.json"}
        assert read_record(path, Failure) == Failure(kind="old", message="")

    def test_what_is_needed_is_told_to_the_byte(self, small_disk: SmallDisk) -> None:
        with pytest.raises(NoRoomError) as raised:
            write_atomically(small_disk.path / "a", bytes(3 << 20))
        assert (raised.value.needed_bytes, raised.value.folder) == (3 << 20, small_disk.path)
        assert str(raised.value) == f"3.0 MiB needed in {small_disk.path}"

    def test_a_checkpoint_without_room_leaves_the_last_two(self, small_disk: SmallDisk, tmp_path: Path) -> None:
        network = nn.Linear(100, 100)
        optimizer, tallies = build_optimizer(Sgd(), network.parameters()), {"totals": torch.zeros(1)}
        last, previous = small_disk.path / "last.pt", small_disk.path / "previous.pt"

        def save(path: Path, step: int) -> None:
            save_checkpoint(path, SPEC, network, optimizer, tallies, Position(step=step), previous=previous)

        save(last, 1)
        save(last, 2)
        small_disk.fill(but_bytes=20 * KiB)
        with pytest.raises(NoRoomError) as raised:
            save(last, 3)
        save(tmp_path / "elsewhere.pt", 3)
        assert raised.value.needed_bytes == (tmp_path / "elsewhere.pt").stat().st_size
        steps = [load_checkpoint(path, SPEC, network, optimizer, tallies).step for path in (previous, last)]
        assert (steps, names(small_disk.path)) == ([1, 2], {"last.pt", "previous.pt"})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_quota_is_a_full_disk_whatever_was_raised_while_it_was_handled(number: int) -> None:
    def write() -> None:
        try:
            raise OSError(number, "no room")
        finally:
            raise RuntimeError("unexpected position")

    with pytest.raises(RuntimeError) as raised:
        write()
    assert is_full(raised.value)


def test_another_error_is_none_of_a_full_disk() -> None:
    assert not is_full(OSError(errno.EIO, "broken"))


def test_a_file_system_that_does_not_tell_its_size_has_room() -> None:
    proc = Path("/proc")
    assert os.statvfs(proc).f_blocks == 0
    assert free_bytes(proc) > 1 << 40


class Waiting:
    """A room whose sleep does what a test says, and what its log and notice said meanwhile."""

    def __init__(self, disk: SmallDisk, on_sleep: Callable[[], None], stops_after: int = 1000) -> None:
        self.disk, self.on_sleep = disk, on_sleep
        self.notice = Notice(disk.path / "notice.txt")
        self.notice.reserve()
        self.sleeps = self.beats = 0
        self.noticed: list[str | None] = []
        self.room = Room(self.notice, lambda: self.sleeps >= stops_after, self.beat, self.clock, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds == POLL_S
        self.sleeps += 1
        self.noticed.append(self.notice.read())
        self.on_sleep()

    def beat(self) -> None:
        self.beats += 1

    def clock(self) -> float:
        return self.sleeps * POLL_S

    def write(self, content: bytes = bytes(100 * KiB)) -> None:
        self.room(write_atomically, self.disk.path / "written", content)


class TestWaiting:
    def test_it_goes_on_once_there_is_room(self, small_disk: SmallDisk) -> None:
        waiting = Waiting(small_disk, lambda: small_disk.make_room() if waiting.sleeps == 3 else None)
        small_disk.fill()
        waiting.write()
        assert (small_disk.path / "written").stat().st_size == 100 * KiB
        assert (waiting.sleeps, waiting.beats, waiting.room.waited_s) == (3, 3, 3 * POLL_S)

    def test_the_log_says_once_what_is_missing_and_for_how_long_it_was(
        self, small_disk: SmallDisk, capsys: pytest.CaptureFixture[str]
    ) -> None:
        waiting = Waiting(small_disk, lambda: small_disk.make_room() if waiting.sleeps == 3 else None)
        small_disk.fill()
        waiting.write()
        said = [f"waiting for room: 100 KiB needed in {small_disk.path}", "waited 6s for room"]
        assert capsys.readouterr().out.splitlines() == said

    def test_a_notice_says_it_on_the_full_disk_itself_as_long_as_it_lasts(self, small_disk: SmallDisk) -> None:
        waiting = Waiting(small_disk, small_disk.make_room)
        small_disk.fill()
        waiting.write()
        assert waiting.noticed == [f"waiting for room: 100 KiB needed in {small_disk.path}"]
        assert waiting.notice.read() is None

    def test_nothing_is_written_before_there_may_be_enough(self, small_disk: SmallDisk) -> None:
        tries = []

        def write() -> None:
            tries.append(waiting.sleeps)
            write_atomically(small_disk.path / "written", bytes(100 * KiB))

        def on_sleep() -> None:
            small_disk.make_room()
            small_disk.fill(but_bytes=20 * KiB * waiting.sleeps)

        waiting = Waiting(small_disk, on_sleep)
        small_disk.fill()
        waiting.room(write)
        assert tries[0] == 0
        assert 5 <= tries[1] <= 7

    def test_a_wish_to_stop_ends_it(self, small_disk: SmallDisk) -> None:
        waiting = Waiting(small_disk, lambda: None, stops_after=2)
        small_disk.fill()
        with pytest.raises(StopRequested):
            waiting.write()
        assert waiting.sleeps == 2

    def test_what_finds_room_waits_for_nothing_and_says_nothing(
        self, small_disk: SmallDisk, capsys: pytest.CaptureFixture[str]
    ) -> None:
        waiting = Waiting(small_disk, lambda: None, stops_after=0)
        waiting.write()
        assert (waiting.sleeps, capsys.readouterr().out) == (0, "")

    def test_another_error_is_not_waited_out(self, small_disk: SmallDisk) -> None:
        with pytest.raises(GpuqError):
            Waiting(small_disk, lambda: None).room(_failing)


def _failing() -> None:
    raise GpuqError("something else")


class TestNotice:
    def test_without_a_file_there_is_none(self, tmp_path: Path) -> None:
        notice = Notice(tmp_path / "notice.txt")
        notice.put_up("unseen")
        assert notice.read() is None

    def test_a_blank_one_says_nothing(self, tmp_path: Path) -> None:
        notice = Notice(tmp_path / "notice.txt")
        notice.reserve()
        assert notice.read() is None

    def test_a_long_one_is_cut_to_the_room_that_there_is(self, tmp_path: Path) -> None:
        notice = Notice(tmp_path / "notice.txt")
        notice.reserve()
        notice.put_up("x" * 5000)
        assert notice.read() == "x" * 4096


class TestTraining:
    """A job whose disk is full now and then, and has room again while it waits."""

    def run(self, spec: JobSpec, disk: SmallDisk, cache_dir: Path) -> float:
        """Train, the disk being filled before every other step; how long it has waited in all.

        By the clock nothing else takes time.
        """
        waiting = Waiting(disk, disk.make_room)
        steps = iter(range(10_000))

        def should_stop() -> bool:
            if next(steps) % 2 == 0:
                disk.fill()
            return False

        trainer(spec, disk.path / "run", cache_dir, should_stop, room=waiting.room, clock=waiting.clock).run()
        return waiting.room.waited_s

    @pytest.mark.parametrize("diagnostics", [False, True], ids=["plain", "with diagnostics"])
    def test_it_ends_as_if_there_had_been_room_all_the_time(
        self, small_disk: SmallDisk, cache_dir: Path, tmp_path: Path, diagnostics: bool
    ) -> None:
        looked_at = DiagnosticsSpec(gradient_flow=diagnostics, landscape=diagnostics, landscape_grid=3)
        spec = job(checkpoint_every="0s", augment="easy", diagnostics=looked_at)
        assert self.run(spec, small_disk, cache_dir) > STEPS * POLL_S
        train(spec, tmp_path, cache_dir)
        assert_same(RunDir(small_disk.path / "run"), RunDir(tmp_path))

    def test_a_line_of_metrics_waits_too(
        self, small_disk: SmallDisk, cache_dir: Path, user_file: Path, tmp_path: Path
    ) -> None:
        """Of a network that never gets better, so that nothing else is written before; a block takes about 17 lines."""
        spec = user_job(user_file, "Stubborn", epochs=20, checkpoint_every="1h")
        waiting = Waiting(small_disk, small_disk.make_room)
        folder = small_disk.path / "run"
        trainer(spec, folder, cache_dir, room=waiting.room, on_progress=small_disk.fill).run()
        train(spec, tmp_path, cache_dir)
        assert_same(RunDir(folder), RunDir(tmp_path))

    def test_waiting_is_no_training_time(self, small_disk: SmallDisk, cache_dir: Path) -> None:
        assert self.run(job(checkpoint_every="0s"), small_disk, cache_dir) > 0
        assert read_metrics(RunDir(small_disk.path / "run").metrics)[-1].elapsed_s == 0

    def test_stopped_while_it_waits_it_resumes_from_its_last_whole_checkpoint(
        self, small_disk: SmallDisk, cache_dir: Path, tmp_path: Path
    ) -> None:
        spec = job(checkpoint_every="0s")
        folder = small_disk.path / "run"
        with pytest.raises(StopRequested):
            trainer(spec, folder, cache_dir, after(STEPS + 1)).run()
        waiting = Waiting(small_disk, lambda: None, stops_after=1)
        two_steps = trainer(spec, folder, cache_dir, _filling(small_disk, at=2), room=waiting.room)
        with pytest.raises(StopRequested):
            two_steps.run()
        small_disk.make_room()
        train(spec, folder, cache_dir)
        train(spec, tmp_path, cache_dir)
        assert_same(RunDir(folder), RunDir(tmp_path))


def _filling(disk: SmallDisk, at: int) -> Callable[[], bool]:
    """Asked before each step, never stops, and fills the disk before the one of this number."""
    steps = iter(range(1, 10_000))

    def should_stop() -> bool:
        if next(steps) == at:
            disk.fill()
        return False

    return should_stop


class TestWorker:
    def test_asked_to_stop_while_its_reason_finds_no_room_it_is_stopped_and_says_it_next_time(
        self, small_disk: SmallDisk, cache_dir: Path, user_file: Path
    ) -> None:
        files, spec = RunDir(small_disk.path / "run"), user_job(user_file, "unbuildable")
        files.create(spec)
        write_record(files.attempt(1).launch, launch(cache_dir))
        small_disk.fill()
        assert run_attempt(spec, files, files.attempt(1), launch(cache_dir), lambda: True) == ExitCode.STOPPED
        assert not files.attempt(1).failure.exists()
        small_disk.make_room()
        assert run_attempt(spec, files, files.attempt(1), launch(cache_dir), lambda: True) == ExitCode.REFUSED
        assert files.attempt(1).failure.exists()


class TestData:
    def test_a_cache_without_room_is_named_and_nothing_is_left(self, small_disk: SmallDisk, tmp_path: Path) -> None:
        """The figures take more than this disk has."""
        with pytest.raises(NoRoomError, match=f"MiB needed in {small_disk.path / 'cache'}"):
            trainer(job(), tmp_path, small_disk.path / "cache", room=_unwaiting())
        assert list((small_disk.path / "cache").rglob("*.npy")) == []

    def test_training_waits_for_room_for_its_data(self, tmp_path: Path) -> None:
        with mounted(mebibytes=128) as disk:
            waiting = Waiting(disk, disk.make_room)
            disk.fill()
            assert trainer(job(), tmp_path, disk.path / "cache", room=waiting.room).data.classes > 1
            assert waiting.sleeps == 1

    def test_an_estimator_says_that_another_try_may_find_room(self, small_disk: SmallDisk) -> None:
        request = Request(
            key=1, spec=job(), device="cpu", precision="fp32", cache_dir=str(small_disk.path / "cache"), prepare=True
        )
        reply = answer(request)
        assert reply.no_room
        assert f"{small_disk.path / 'cache'}: no room for the decoded data" in (reply.error or "")

    def test_numbers_are_cached_as_numpy_writes_them(self, tmp_path: Path) -> None:
        save_array(tmp_path / "a.npy", values := np.arange(12).reshape(3, 4))
        np.save(tmp_path / "b.npy", values)
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def _unwaiting() -> Callable[..., object]:
    return lambda write, *args, **kwargs: write(*args, **kwargs)
