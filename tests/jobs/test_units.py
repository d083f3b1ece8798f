"""Sizes and durations as people write and read them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.units import format_bytes, format_duration, parse_bytes, parse_duration

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6 GiB", 6 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1.5 gib", 3 * 2**29),
        ("2 GB", 2 * 10**9),
        ("1 B", 1),
        (" 3 KiB ", 3 * 2**10),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "6", "GiB", "6 XiB", "-1 GiB", "0 GiB", "0.1 B", "1e3 MiB", "1,5 GiB", "nan GiB", "9" * 400 + " GiB"]
)
def test_a_size_without_unit_or_out_of_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="6 GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("90m", 5400), ("6h", 21600), ("1.5 d", 129600), ("0s", 0), ("2 M", 120)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-5m", "1 week", "1h 30m", "inf s", "9" * 400 + "d"])
def test_a_duration_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="90m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (2048, "2 KiB"), (3 * 2**29, "1.5 GiB"), (200 * 2**20, "200 MiB")],
)
def test_a_size_is_shown_in_the_largest_unit_that_leaves_at_least_one(count: int, text: str) -> None:
    assert format_bytes(count) == text


@PROPERTY
@given(st.integers(min_value=2**20, max_value=2**50))
def test_a_shown_size_reads_back_to_within_five_percent(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.05)


@PROPERTY
@given(st.integers(min_value=1, max_value=2**50))
def test_a_size_in_bytes_reads_back_exactly(count: int) -> None:
    assert parse_bytes(f"{count} B") == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m"), (90, "1m 30s"), (5400, "1h 30m"), (3600, "1h"), (90061, "1d 1h"), (86400, "1d")],
)
def test_a_duration_is_shown_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@PROPERTY
@given(st.integers(min_value=0, max_value=10**7))
def test_the_parts_of_a_shown_duration_leave_out_less_than_the_smallest_of_them(seconds: int) -> None:
    parts = format_duration(seconds).split()
    shown = sum(parse_duration(part) for part in parts)
    smallest = parse_duration("1" + parts[-1][-1])
    assert len(parts) <= 2
    assert 0 <= seconds - shown < max(smallest, 1) * (60 if len(parts) == 2 else 1)
