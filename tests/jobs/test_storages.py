"""What operations bring to life is counted once, as long as it lives."""

from contextlib import nullcontext
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from jobs.storages import Storages, StorageTrace


def test_views_are_counted_once() -> None:
    with StorageTrace() as memory:
        one = torch.zeros(10)
        views = [one[2:], one.view(5, 2), one.t()]
    assert memory.live_bytes == 40
    assert len(views) == 3


def test_what_died_is_no_longer_live_but_was_in_the_peak() -> None:
    with StorageTrace() as memory:
        one = torch.zeros(10)
        del one
        two = torch.zeros(5)
    assert (memory.live_bytes, memory.peak_bytes) == (20, 40)
    del two
    assert memory.live_bytes == 0


def test_a_storage_lives_as_long_as_one_of_its_views() -> None:
    with StorageTrace() as memory:
        view = torch.zeros(10)[:1]
    assert memory.live_bytes == 40
    del view
    assert memory.live_bytes == 0


def test_births_and_deaths_are_told_in_order() -> None:
    with StorageTrace() as memory:
        one = torch.zeros(10)
        two = torch.zeros(5)
        del one
    (first, second, third) = memory.events
    assert [size for _, size in memory.events] == [40, two.nbytes, -40]
    assert first[0] == third[0] != second[0]


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
def test_events_and_peak_agree(fake: bool) -> None:
    with FakeTensorMode() if fake else nullcontext(), StorageTrace() as memory:
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        for _ in range(2):
            network(torch.ones(4, 3, 8, 8)).sum().backward()
    assert max(accumulate(size for _, size in memory.events)) == memory.peak_bytes


def test_a_peak_is_told_since_the_last_question() -> None:
    with StorageTrace() as memory:
        one = torch.zeros(10)
        del one
        kept = torch.zeros(5)
        assert memory.peak_since() == 40
        assert memory.peak_since() == kept.nbytes


def test_what_was_there_before_counts_from_when_it_is_shown() -> None:
    one, memory = torch.zeros(10), Storages()
    memory.track({"one": [one, one[2:], "no tensor"]})
    assert memory.live_bytes == 40
    del one
    assert memory.live_bytes == 0


def test_storages_of_nothing_are_no_events() -> None:
    with StorageTrace() as memory:
        torch.zeros(0)
    assert memory.events == []
