"""Every place in the code that writes state is one where the tests of this folder kill a process, or is exempt."""

from itertools import chain

from crash_table import EXEMPT, TESTED
from writing_places import writing_places

INNER = {"fsync", "sync_folder", "write_all"}  # steps of one write, that the finder does not look for


def test_every_place_that_writes_is_killed_at_or_exempt() -> None:
    known = {text for text in (*chain(*TESTED), *EXEMPT) if text.split(" > ")[1] not in INNER}
    assert known == {str(place) for place in writing_places()}


def test_no_place_is_both() -> None:
    assert set(chain(*TESTED)).isdisjoint(EXEMPT)
