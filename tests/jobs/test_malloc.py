"""Memory of workers on the CPU: what malloc is told, and what it keeps beside the tensors all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.malloc import ENVIRONMENT, OWN_PAGES_BYTES, holes_bytes

MiB = 1 << 20

# A large block that is freed raises the size from which a block has pages of its own, unless that is fixed. What is
# then taken from the heap cannot go back to Linux while a small block lies behind it.
SCRIPT = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
libc.free(libc.malloc(20 << 20))
before, blocks = resident(), []
for _ in range(40):
    blocks.append(libc.malloc(4 << 20))
    ctypes.memset(blocks[-1], 1, 4 << 20)
    libc.malloc(2000)
for block in blocks:
    libc.free(block)
print(resident() - before)
"""


def kept_bytes(environment: dict[str, str]) -> int:
    """What stays resident of 160 MiB in blocks of 4 MiB once they are freed."""
    unset = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    command = [sys.executable, "-c", SCRIPT]
    return int(subprocess.run(command, env={**unset, **environment}, capture_output=True, check=True).stdout)


def test_large_blocks_go_back_when_they_are_freed() -> None:
    assert kept_bytes(ENVIRONMENT) < 4 * MiB


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="not glibc")
def test_without_the_rules_they_would_stay() -> None:
    assert kept_bytes({}) > 100 * MiB


def test_torch_knows_the_wish_for_huge_pages_by_this_name() -> None:
    assert b"THP_MEM_ALLOC_ENABLE" in (Path(torch.__file__).parent / "lib" / "libc10.so").read_bytes()


def test_the_heaps_large_blocks_leave_holes_by_how_many_there_were_at_once() -> None:
    one = [("a", MiB), ("a", -MiB), ("b", MiB), ("b", -MiB)]
    two = [("a", MiB), ("b", MiB), ("a", -MiB), ("b", -MiB)]
    assert [holes_bytes(one), holes_bytes(two)] == pytest.approx([0.85 * MiB, 1.7 * MiB], abs=1)


@given(st.lists(st.one_of(st.integers(1, MiB // 2 - 1), st.integers(OWN_PAGES_BYTES, 1 << 40))))
def test_blocks_that_fit_anywhere_or_have_pages_of_their_own_leave_none(sizes: list[int]) -> None:
    births = list(enumerate(sizes))
    assert holes_bytes([*births, *((key, -size) for key, size in births)]) == 0


def test_what_an_update_makes_and_what_outlives_one_leave_none() -> None:
    """A block that lasts, passing ones, a gradient, the update's own, and the gradient's end in the next pass."""
    first = [("weight", MiB), ("output", MiB), ("gradient", MiB), ("output", -MiB)]
    update = [("copy", MiB), ("another", MiB), ("copy", -MiB), ("another", -MiB)]
    second = [("gradient", -MiB), ("hidden", MiB), ("output", MiB), ("hidden", -MiB), ("output", -MiB)]
    ends = [len(first), len(first) + len(update)]
    events = [*first, *update, *second]
    assert holes_bytes(events, ends) == pytest.approx(1.7 * MiB, abs=1)
    assert holes_bytes(events) == pytest.approx(2.55 * MiB, abs=1)
