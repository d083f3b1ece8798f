"""What only a GPU can show, each as small as it can be: its cap, its random state, its constants, a job's whole way."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpuq_process import Gpuq

from augment.catalog import POLICY_NAMES
from augment.policies import policy
from augment.resident import seeded
from jobs.checkpoint import random_state, set_random_state
from jobs.memory import cap_memory, is_out_of_memory, own_context_bytes, requested_bytes
from jobs.trace_messages import Constants
from scheduler.calibration_process import CalibrationProcess
from scheduler.device import CudaDevice

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda:0")
MiB = 1 << 20

JOB = """
[model]
name = "resv1"
width = 8
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
limit = 2000
augment = "hard3"
chunk_size = 512
[train]
epochs = 4
batch_size = 64
checkpoint_every = "1 epoch"
[schedule]
warmup_epochs = 1
[diagnostics]
gradient_flow = true
"""


@pytest.fixture
def cap() -> Iterator[int]:
    """This process is capped at 64 MiB of tensors more than it has reserved, beside a context of 500 MiB."""
    torch.cuda.empty_cache()
    left = torch.cuda.memory_reserved(GPU) + 64 * MiB
    cap_memory(GPU, left + 500 * MiB, 500 * MiB)
    yield left
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)


def test_a_process_gets_all_that_its_cap_leaves(cap: int) -> None:
    kept = torch.empty(64 * MiB, dtype=torch.uint8, device=GPU)
    assert torch.cuda.memory_reserved(GPU) == cap
    assert len(kept) == 64 * MiB


@pytest.mark.usefixtures("cap")
def test_beyond_its_cap_it_gets_an_error_that_tells_what_was_lacking() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(66 * MiB, dtype=torch.uint8, device=GPU)
    assert is_out_of_memory(raised.value)
    assert requested_bytes(raised.value) == 66 * MiB


def test_tensors_do_not_change_what_a_process_knows_of_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    torch.zeros(1, device=GPU)
    context = own_context_bytes(GPU)
    if context is None:
        pytest.skip("the driver does not tell the bytes of a process here")
    kept = torch.empty(256 * MiB, dtype=torch.uint8, device=GPU)
    assert (own_context_bytes(GPU), len(kept)) == (pytest.approx(context, abs=2 * MiB), 256 * MiB)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_augmentation_draws_the_same_from_the_same_seed(name: str) -> None:
    images = torch.rand(64, 3, 32, 32, device=GPU)
    drawn = []
    for seed in (3, 3, 4):
        with seeded(seed, GPU):
            drawn.append(policy(name, 32)(images.clone()))
    assert drawn[0].device == GPU
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (name == "none")


def test_a_random_state_brings_back_the_draws_of_a_gpu() -> None:
    state = random_state(GPU)
    drawn = torch.rand(5, device=GPU)
    set_random_state(state, GPU)
    assert torch.equal(torch.rand(5, device=GPU), drawn)


def test_its_constants_can_be_measured(tmp_path: Path) -> None:
    process = CalibrationProcess(CudaDevice(), tmp_path / "log")
    while (found := process.poll(timeout_s=1.0)) is None:
        pass
    assert isinstance(found, Constants), found
    assert found.context_bytes > 200 * MiB


def test_a_job_trains_within_its_reservation_and_the_next_like_it_is_placed_by_its_peak(gpuq: Gpuq) -> None:
    (gpuq.folder / "one.toml").write_text(JOB)
    for number in (1, 2):
        done = gpuq("run", "--device", "cuda", "one.toml")
        assert done.returncode == 0, done.stdout + done.stderr + gpuq("logs", str(number)).stdout
    first, second = json.loads(gpuq("status", "--json").stdout)["jobs"]
    assert (first["estimate_basis"], second["estimate_basis"]) == ("modelled", "measured")
    for job in (first, second):
        assert job["peak_bytes"] <= job["reservation_bytes"]
        assert re.search("unused", gpuq("estimate", "--check", str(job["id"])).stdout)
