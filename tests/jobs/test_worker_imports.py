"""What a worker does without: imports that would cost each of them seconds and memory."""

import subprocess
import sys

import pytest

CODE = """
import sys
import torch
from augment.policies import policy
from jobs.optimizer import build_optimizer
from jobs.spec import Adam, AdamW, Sgd
from jobs.step import Totals, evaluation_step, training_step

for spec in (Sgd(), Adam(), AdamW()):
    network = torch.nn.Linear(3, 2)
    optimizer, totals = build_optimizer(spec, network.parameters()), Totals(torch.device("cpu"))
    batch = torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    before = network.weight.clone()
    for step in range(2):
        training_step(network, optimizer, *batch, "fp32", totals, step)
    assert not torch.equal(network.weight, before)
    optimizer.load_state_dict(optimizer.state_dict())
    evaluation_step(network, *batch, "fp32", totals)
    totals.read(4)
policy("none", 32)(torch.ones(4, 3, 32, 32))
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """By a process that takes each step of a training, without augmentation."""
    done = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_building_stepping_saving_and_loading_never_import_the_compiler(imported: set[str]) -> None:
    assert imported & {"torch._dynamo", "torch._inductor"} == set()


def test_without_augmentation_kornia_is_not_imported(imported: set[str]) -> None:
    assert "kornia" not in imported
