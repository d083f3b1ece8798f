"""The cap of a worker on a GPU, as torch takes it: a share of the device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.memory import cap_memory

GPU = torch.device("cuda", 0)
MiB = 1 << 20


@given(st.data(), st.integers(4 << 30, 200 << 30), st.integers(0, 1 << 30))
def test_a_cap_leaves_the_allocator_the_very_bytes_of_the_reservation_beside_the_context(
    data: st.DataObject, total: int, context: int
) -> None:
    left = data.draw(st.integers(1, (total - context) // MiB - 1)) * MiB
    shares: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=total))
        patch.setattr("torch.cuda.set_per_process_memory_fraction", lambda share, _: shares.append(share))
        cap_memory(GPU, left + context, context)
    assert [int(share * total) for share in shares] == [left]
