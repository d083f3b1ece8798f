"""Ids and sizes as people type them."""

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cli_types import MAX_RANGE, JobIds, Memory, as_ranges, flatten


def ids(text: str) -> list[int]:
    return list(JobIds().convert(text, None, None))


@pytest.mark.parametrize(("text", "expected"), [("7", [7]), ("3-5", [3, 4, 5]), ("7-7", [7])])
def test_ids_are_one_or_a_range(text: str, expected: list[int]) -> None:
    assert ids(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-", "x", "3-", "-3", "5-3", "1-2-3", "1.5", "²", " 7", "9" * 25, "1-" + "9" * 25, "9" * 5000]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        ids(text)


def test_a_range_has_a_limit() -> None:
    assert len(ids(f"1-{MAX_RANGE}")) == MAX_RANGE
    with pytest.raises(click.BadParameter, match="is not a range of ids"):
        ids(f"1-{MAX_RANGE + 1}")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.sets(st.integers(0, 60)))
def test_ids_survive_being_written_as_ranges(chosen: set[int]) -> None:
    written = as_ranges(chosen)
    assert flatten(JobIds().convert(part, None, None) for part in written.split(", ") if part) == sorted(chosen)


def test_ranges_are_as_long_as_they_can_be() -> None:
    assert as_ranges([7, 1, 3, 2, 9, 8]) == "1-3, 7-9"


def test_an_id_named_twice_counts_once() -> None:
    assert flatten([range(1, 4), range(2, 6)]) == [1, 2, 3, 4, 5]


def test_sizes_carry_units() -> None:
    assert Memory().convert("6GiB", None, None) == 6 << 30


@pytest.mark.parametrize("text", ["6", "GiB", "-1 GiB", "6 apples", "0 GiB"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match='expected a size such as "6 GiB"'):
        Memory().convert(text, None, None)
