"""Optimizers of torch, without torch's compiler.

torch.optim imports the compiler only to exempt itself from it, which costs every worker 2 s and 150 MB of host memory.
Nothing here is ever compiled, so both places where it does are bypassed.
"""

import inspect
from collections.abc import Iterable

import torch
from torch import nn

from jobs.spec import Adam, AdamW, Optimizer, Sgd


def build_optimizer(spec: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a spec. `foreach` is fixed so that every device steps, and needs memory, alike."""
    _leave_compiler_out()
    match spec:
        case Sgd(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay):
            return torch.optim.SGD(parameters, lr, momentum, nesterov=nesterov, weight_decay=decay, foreach=True)
        case Adam(lr=lr, betas=betas, weight_decay=decay):
            return torch.optim.Adam(parameters, lr, betas, weight_decay=decay, foreach=True)
        case AdamW(lr=lr, betas=betas, weight_decay=decay):
            return torch.optim.AdamW(parameters, lr, betas, weight_decay=decay, foreach=True)


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer) -> None:
    """Change the parameters by their gradients: `optimizer.step()` beneath its wrappers, which import the compiler."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def forget_training(optimizer: torch.optim.Optimizer) -> None:
    """Let go of the gradients and of what the optimizer remembers, once nothing more is trained."""
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()


def _leave_compiler_out() -> None:
    """Give the optimizer's methods the exempted form that their wrapper (torch/_compile.py) looks for: themselves."""
    methods = torch.optim.Optimizer
    for method in (methods.add_param_group, methods.zero_grad, methods.state_dict, methods.load_state_dict):
        wrapped = getattr(method, "__wrapped__", None)
        if wrapped is not None and not hasattr(wrapped, "__dynamo_disable"):
            wrapped.__dynamo_disable = wrapped
