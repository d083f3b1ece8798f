"""How workers on the CPU allocate: glibc's malloc, held to rules under which their resident memory can be foreseen.

By itself malloc moves the size from which a block has pages of its own (mallopt(3), M_MMAP_THRESHOLD), up to 32 MiB,
by what was freed before; smaller blocks come from a heap whose holes stay resident, and grow from epoch to epoch. With
that size fixed, large blocks take what they ask for. docs/results.md, "Memory", has what that costs and saves.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.allocator import Event

MiB = 1 << 20

OWN_PAGES_BYTES = 2 * MiB  # torch asks for huge pages for tensors from this size on (c10/core/alignment.h)

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(OWN_PAGES_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(32 * MiB),  # free memory at the heap's end that is kept rather than given back
    "THP_MEM_ALLOC_ENABLE": "1",  # huge pages take less time to get
}

# The heap's large blocks seldom fit into its holes, so it grows by more than they take. Fitted together with
# `jobs.estimator.CPU_TRAINING_BYTES`.
_LARGE_BYTES = MiB // 2
HOLES_SHARE = 0.85


def holes_bytes(events: "Sequence[Event]", updates: Sequence[int] = ()) -> int:
    """What the heap takes beyond the tensors of these births and deaths: a share of its large blocks, at their peak.

    `updates` tells where among the events each update of the weights begins and ends. What one makes, it makes in one
    go, and what lives beyond it, as weights and gradients do, lies side by side: neither leaves holes.
    """
    bounds = [0, *updates, len(events)]
    passes = zip(bounds[::2], bounds[1::2], strict=True)
    return int(HOLES_SHARE * max(_peak_of_passing(events[start:end]) for start, end in passes))


def _peak_of_passing(events: "Sequence[Event]") -> int:
    """Of large blocks that are born and die among these events."""
    passing = {key for key, size in events if size > 0} & {key for key, size in events if size < 0}
    live = peak = 0
    for key, size in events:
        if key in passing and _LARGE_BYTES <= abs(size) < OWN_PAGES_BYTES:
            live += size
            peak = max(peak, live)
    return peak
