"""A job's log: capped, with its head and its end."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.log import TAIL_BYTES, CappedLog, last_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def written(path: Path, *texts: bytes, head: int = 10, tail: int = 5) -> bytes:
    log = CappedLog(path, head_bytes=head, tail_bytes=tail)
    for text in texts:
        log.write(text)
    log.close()
    return path.read_bytes()


def test_what_fits_is_kept_as_it_is(path: Path) -> None:
    assert written(path, b"hello ", b"you!") == b"hello you!"


def test_what_fits_in_head_and_tail_together_is_kept_whole(path: Path) -> None:
    assert written(path, b"0123456789", b"abcde") == b"0123456789abcde"


def test_what_is_left_out_of_the_middle_is_counted(path: Path) -> None:
    assert written(path, b"0123456789", b"left out", b"abcde") == (b"0123456789\n[... 8 bytes left out ...]\nabcde")


def test_the_head_is_there_before_the_end(path: Path) -> None:
    """So that `gpuq logs -f` shows a running job."""
    log = CappedLog(path)
    log.write(b"epoch 1\n")
    assert path.read_bytes() == b"epoch 1\n"
    log.close()


def test_another_attempt_appends(path: Path) -> None:
    written(path, b"first\n")
    assert written(path, b"second\n") == b"first\nsecond\n"


def test_a_log_is_its_owners_alone(path: Path) -> None:
    written(path, b"text")
    assert path.stat().st_mode & 0o777 == 0o600


@settings(deadline=None, max_examples=100, derandomize=True)
@given(texts=st.lists(st.binary(min_size=1, max_size=12), max_size=12))
def test_however_it_is_written_the_beginning_and_the_end_are_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]
) -> None:
    whole = b"".join(texts)
    kept = written(tmp_path_factory.mktemp("log") / "log.txt", *texts)
    left_out = len(whole) - 15
    note = b"\n[... %d bytes left out ...]\n" % left_out
    assert kept == (whole if left_out <= 0 else whole[:10] + note + whole[-5:])


def test_last_lines_of_no_log_are_none(path: Path) -> None:
    assert last_lines(path, 3) == []


def test_last_lines_are_the_last(path: Path) -> None:
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    assert last_lines(path, 2) == ["line 98", "line 99"]


def test_last_lines_of_a_short_log_are_all_it_has(path: Path) -> None:
    path.write_text("only one, not ended")
    assert last_lines(path, 5) == ["only one, not ended"]


def test_last_lines_can_be_of_a_log_that_is_not_text(path: Path) -> None:
    path.write_bytes(b"fine\n\xff\xfe broken\n")
    assert last_lines(path, 2) == ["fine", "\ufffd\ufffd broken"]


def test_of_a_large_log_only_the_end_is_read(path: Path) -> None:
    path.write_bytes(b"x" * 10 * TAIL_BYTES + b"\nthe end\n")
    lines = last_lines(path, 2)
    assert lines[1] == "the end"
    assert len(lines[0]) < TAIL_BYTES
