"""SIGKILL in the middle of one write: a file is the old one or the new one, and can be written again."""

import json
from pathlib import Path

import numpy as np
import pytest
from crash_point import AFTER, BEFORE, CrashPoint
from crash_table import APPENDING, CACHING, DROPPING, WRITING, place, points
from night import KILLED, Night

from augment.cache import cached_arrays
from jobs.run_dir import Line, read_lines

REPLACED = place("jobs.run_dir:write_atomically > replace")


@pytest.mark.parametrize("point", points(WRITING), ids=str)
def test_a_record_is_the_old_one_or_the_new_one(night: Night, point: CrashPoint) -> None:
    path = night.folder / "record.json"
    path.write_text('{"word":"old"}')
    assert night.call("one_file:write", str(path), "new", crash=point) == KILLED, night.said()
    assert json.loads(path.read_bytes())["word"] in ("old", "new")
    assert night.call("one_file:write", str(path), "new") == 0, night.said()
    assert json.loads(path.read_bytes()) == {"word": "new"}


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_of_two_generations_one_is_always_there(night: Night, when: str, call: int) -> None:
    last, previous = night.folder / "last", night.folder / "previous"
    last.write_text("second"), previous.write_text("first")
    point = CrashPoint(REPLACED, when, call)
    assert night.call("one_file:write_keeping", str(last), str(previous), "third", crash=point) == KILLED, night.said()
    newest = last if last.exists() else previous
    assert newest.read_text() in ("second", "third")
    assert night.call("one_file:write_keeping", str(last), str(previous), "fourth") == 0, night.said()
    assert (last.read_text(), previous.read_text() in ("second", "third")) == ("fourth", True)


@pytest.fixture
def lines(night: Night) -> Path:
    """Lines of steps 1 and 2."""
    path = night.folder / "lines.jsonl"
    for step in "12":
        assert night.call("one_file:append", str(path), step) == 0, night.said()
    return path


def steps(path: Path) -> list[int]:
    return [line.step for line in read_lines(path, Line)]


@pytest.mark.parametrize("point", points(APPENDING), ids=str)
def test_a_line_is_there_or_not_and_the_lines_before_it_are(night: Night, lines: Path, point: CrashPoint) -> None:
    assert night.call("one_file:append", str(lines), "3", crash=point) == KILLED, night.said()
    assert steps(lines) in ([1, 2], [1, 2, 3])
    assert night.call("one_file:drop", str(lines), "2") == night.call("one_file:append", str(lines), "3") == 0
    assert steps(lines) == [1, 2, 3]


@pytest.mark.parametrize("point", points(DROPPING), ids=str)
def test_lines_are_dropped_or_not(night: Night, lines: Path, point: CrashPoint) -> None:
    assert night.call("one_file:drop", str(lines), "1", crash=point) == KILLED, night.said()
    assert steps(lines) in ([1], [1, 2])
    assert night.call("one_file:drop", str(lines), "1") == 0
    assert steps(lines) == [1]


@pytest.mark.parametrize("point", points(CACHING), ids=str)
def test_an_entry_of_the_cache_is_whole_or_made_anew(night: Night, point: CrashPoint) -> None:
    entry = night.folder / "cache" / "entry"
    assert night.call("one_file:cache", str(entry), crash=point) == KILLED, night.said()
    assert night.call("one_file:cache", str(entry)) == 0, night.said()
    arrays = cached_arrays(entry, "fingerprint", pytest.fail)
    assert np.array_equal(arrays["numbers"], np.arange(5))
    assert list(entry.parent.glob("*.partial")) == []
