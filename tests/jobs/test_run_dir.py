"""The files of a run directory: whole or not there at all, and nobody else's business."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from jobs.errors import GpuqError
from jobs.run_dir import (
    Failure,
    Metrics,
    Peak,
    Progress,
    RunDir,
    append_line,
    drop_lines_after,
    make_private_folder,
    read_metrics,
    read_record,
    write_atomically,
    write_record,
)
from jobs.spec import JobSpec, ModelSpec

SPEC = JobSpec(name="a", model=ModelSpec(name="resv1"))


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def line(epoch: int) -> Metrics:
    return Metrics(
        epoch=epoch,
        step=10 * epoch,
        lr=0.05,
        train_loss=1.5,
        train_accuracy=0.5,
        validation_loss=1.75,
        validation_accuracy=0.25,
        images_per_s=100.0,
        elapsed_s=float(epoch),
        peak_bytes=1 << 20,
    )


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """metrics.jsonl with three epochs."""
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3):
        append_line(path, line(epoch))
    return path


class TestWriting:
    def test_content_may_be_bytes_or_what_a_function_writes(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", b"bytes")
        write_atomically(tmp_path / "b", lambda file: file.write(b"written"))
        assert (tmp_path / "a").read_bytes() == b"bytes"
        assert (tmp_path / "b").read_bytes() == b"written"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_a_crash_while_writing_leaves_the_old_file_and_no_other(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        write_atomically(tmp_path / "a", b"old")

        def crash(file: IO[bytes]) -> None:
            file.write(b"half of the n")
            raise error

        with pytest.raises(error):
            write_atomically(tmp_path / "a", crash)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]

    def test_the_old_file_is_there_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", b"old")
        seen = []

        def look(file: IO[bytes]) -> None:
            file.write(b"new")
            file.flush()
            seen.append((tmp_path / "a").read_bytes())

        write_atomically(tmp_path / "a", look)
        assert seen == [b"old"]
        assert (tmp_path / "a").read_bytes() == b"new"

    def test_content_is_on_the_disk_before_it_gets_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = []
        fsync = os.fsync

        def watch(descriptor: int) -> None:
            synced.append((Path(f"/proc/self/fd/{descriptor}").is_dir(), (tmp_path / "a").exists()))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", watch)
        write_atomically(tmp_path / "a", b"content")
        assert synced == [(False, False), (True, True)]  # the file, then the folder with its new name


class TestPrivacy:
    def test_every_folder_and_file_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        files = RunDir(tmp_path / "runs" / "7")
        files.create(SPEC)
        write_record(files.attempt(1).peak, Peak(peak_bytes=1))
        append_line(files.metrics, line(1))
        made = [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]
        assert {mode(path) for path in made if path.is_dir()} == {0o700}
        assert {mode(path) for path in made if path.is_file()} == {0o600}

    def test_folders_that_were_there_keep_their_mode(self, tmp_path: Path) -> None:
        (tmp_path / "shared").mkdir(mode=0o755)
        make_private_folder(tmp_path / "shared" / "own")
        assert mode(tmp_path / "shared") == 0o755

    def test_making_a_folder_that_is_there_is_harmless(self, tmp_path: Path) -> None:
        make_private_folder(tmp_path / "a")
        make_private_folder(tmp_path / "a")


class TestSpec:
    def test_a_run_directory_holds_the_spec_it_was_made_for(self, tmp_path: Path) -> None:
        files = RunDir(tmp_path / "1")
        files.create(SPEC)
        assert files.read_spec() == SPEC

    def test_making_it_again_puts_a_torn_spec_right(self, tmp_path: Path) -> None:
        files = RunDir(tmp_path / "1")
        files.create(SPEC)
        files.spec.write_bytes(b"")
        files.create(SPEC)
        assert files.read_spec() == SPEC


class TestRecords:
    def test_a_record_reads_back(self, tmp_path: Path) -> None:
        record = Failure(kind="ValueError", message="näh\n", requested_bytes=7)
        write_record(tmp_path / "attempts" / "1" / "failure.json", record)
        assert read_record(tmp_path / "attempts" / "1" / "failure.json", Failure) == record

    def test_no_file_is_no_record(self, tmp_path: Path) -> None:
        assert read_record(tmp_path / "nothing.json", Progress) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0" * 100,
            b"\xff\xfe",
            b'{"parameters": 3',
            b"[]",
            b"null",
            b'{"parameters": "3", "resumed_from_step": 0, "steps": 9}',
            b'{"parameters": 3}',
            b'{"\xff": 1}',
            b'{"other": ' + b"[" * 100_000,
        ],
        ids=range(10),
    )
    def test_anything_else_is_an_error_that_names_the_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "progress.json"
        path.write_bytes(content)
        with pytest.raises(GpuqError, match=r"progress\.json: not a Progress record"):
            read_record(path, Progress)


class TestMetrics:
    def test_lines_read_back_in_order(self, metrics: Path) -> None:
        assert read_metrics(metrics) == [line(1), line(2), line(3)]

    def test_only_lines_after_a_step_are_read(self, metrics: Path) -> None:
        assert read_metrics(metrics, after_step=line(2).step) == [line(3)]

    def test_no_file_has_no_lines(self, tmp_path: Path) -> None:
        assert read_metrics(tmp_path / "metrics.jsonl") == []

    def test_a_line_cut_short_by_a_crash_does_not_count_wherever_it_was_cut(self, metrics: Path) -> None:
        content = metrics.read_bytes()
        third = content.rindex(b"\n", 0, -1) + 1
        for end in range(third, len(content)):
            metrics.write_bytes(content[:end])
            assert read_metrics(metrics) == [line(1), line(2)]

    def test_a_line_of_zeros_left_by_a_power_cut_does_not_count(self, metrics: Path) -> None:
        with metrics.open("ab") as file:
            file.write(b"\0" * 200 + b"\n")
        assert read_metrics(metrics) == [line(1), line(2), line(3)]

    def test_epochs_that_are_to_be_repeated_are_dropped(self, metrics: Path) -> None:
        drop_lines_after(metrics, Metrics, line(1).step)
        assert read_metrics(metrics) == [line(1)]

    def test_dropping_repairs_the_end_so_that_the_next_line_is_whole(self, metrics: Path) -> None:
        with metrics.open("ab") as file:
            file.write(b'{"epoch": 4, "ste')
        drop_lines_after(metrics, Metrics, line(3).step)
        append_line(metrics, line(4))
        assert read_metrics(metrics) == [line(1), line(2), line(3), line(4)]

    def test_dropping_where_there_is_no_file_makes_none(self, tmp_path: Path) -> None:
        drop_lines_after(tmp_path / "metrics.jsonl", Metrics, 0)
        assert not (tmp_path / "metrics.jsonl").exists()
