"""Optimizers without torch's compiler, which would cost every worker seconds and memory."""

import subprocess
import sys

CODE = """
import sys
import torch
import torch.nn.functional as F
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
print(*(name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules))
"""


def test_building_stepping_saving_and_loading_never_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
