"""What a worker holds on a GPU beside its tensors, as NVML tells it: another process may have loaded other kernels."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from stub_nvml import StubNvml, holding

from jobs.memory import own_context_bytes, parts, peak_bytes
from jobs.surplus import Surplus

GPU = torch.device("cuda", 0)
MiB, GiB = 1 << 20, 1 << 30


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> StubNvml:
    """This process has 300 MiB reserved on the only GPU, had 1000, and holds 850 in all."""
    stub = StubNvml()
    stub.processes = [holding(os.getpid(), 850 * MiB), holding(os.getpid() + 1, 5 * GiB)]
    monkeypatch.setitem(sys.modules, "pynvml", stub)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 300 * MiB)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda _: 1000 * MiB)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 900 * MiB)
    return stub


@pytest.mark.usefixtures("nvml")
def test_a_context_is_what_a_process_holds_beside_the_allocator() -> None:
    assert own_context_bytes(GPU) == 550 * MiB


@pytest.mark.usefixtures("nvml")
def test_a_peak_is_that_of_the_allocator_and_the_own_context() -> None:
    assert peak_bytes(GPU, 600 * MiB) == 1550 * MiB


@pytest.mark.parametrize(
    "held_bytes", [None, 0, 200 * MiB, 310 * MiB, 6 * GiB], ids=["WSL2", "none", "less", "hardly more", "far more"]
)
def test_a_figure_that_cannot_be_this_process_is_not_believed(nvml: StubNvml, held_bytes: int | None) -> None:
    """In a container the host's processes are listed, and one of them may have the same pid."""
    nvml.processes = [holding(os.getpid(), held_bytes)]
    assert own_context_bytes(GPU) is None
    assert peak_bytes(GPU, 600 * MiB) == 1600 * MiB


def test_where_processes_are_not_listed_the_measured_constant_counts(nvml: StubNvml) -> None:
    nvml.processes = None
    assert peak_bytes(GPU, 600 * MiB) == 1600 * MiB


def test_a_driver_that_is_gone_is_no_error(nvml: StubNvml) -> None:
    nvml.error = "Driver Not Loaded"
    assert own_context_bytes(GPU) is None


@pytest.mark.usefixtures("nvml")
def test_a_gpu_that_cannot_be_told_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert own_context_bytes(GPU) is None


@pytest.mark.usefixtures("nvml")
def test_the_parts_of_a_peak_have_the_context() -> None:
    assert parts(GPU, None, None)["context_bytes"] == 550 * MiB


@pytest.mark.usefixtures("nvml")
def test_the_cpu_has_no_context() -> None:
    assert own_context_bytes(torch.device("cpu")) is None


@pytest.mark.usefixtures("nvml")
def test_what_is_left_of_a_reservation_is_for_the_own_context_and_the_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capped: list[int] = []
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=8 * GiB))
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda share, _: capped.append(int(share * 8 * GiB))
    )
    of_4_gib = Surplus(GPU, 4 * GiB, 600 * MiB, steps_to_peak=1)
    left = [of_4_gib.give_back(10), of_4_gib.give_back(20)]
    assert left == [None, 1581 * MiB]  # 2 % above 1550, whole MiB
    assert capped == [(1581 - 550) * MiB]
