"""What CUDA does otherwise than the CPU, for a trace on fake CPU tensors.

Emulated: the casts of `torch.autocast` (jobs.cuda_autocast), scaled dot-product attention (jobs.cuda_attention), and
the mask of dropout. What a kernel allocates and frees within itself, such as the workspaces of cuDNN's convolutions,
and what cuDNN's batch norm keeps in fp32 (its "reserve space"; bf16 runs torch's own kernel) are not: only a GPU tells.
Nor is that batch norm keeps its statistics in fp32 of parameters that are bf16, too: 4 bytes a channel.
The tests hold the casts against torch's CUDA autocast on fake CUDA tensors. Attention follows torch's sources and meta
functions, unchecked on a GPU.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, _scoped_library

from jobs.cuda_attention import scaled_dot_product_attention
from jobs.cuda_autocast import cast_kernels


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Inside, operators on fake CPU tensors keep and cast what CUDA's would; `torch.autocast("cpu")` is CUDA's.

    It holds for the whole process, real tensors too, and is not to be entered twice.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with _scoped_library("aten", "IMPL") as kernels:
        _register(kernels)
        # A GPU's autocast keeps nn.MultiheadAttention from the fused path of evaluation; the CPU's does not.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


def _register(kernels: Library) -> None:
    register: Callable[[str, Callable[..., Any], str], None] = kernels.impl
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        for name, kernel in cast_kernels():
            register(name, kernel, "AutocastCPU")
    register("scaled_dot_product_attention", scaled_dot_product_attention, "AutogradCPU")
    register("dropout", dropout, "AutogradCPU")


def dropout(values: Tensor, p: float, train: bool) -> Tensor:
    """aten::dropout as on CUDA: the mask kept for the backward pass is of booleans (native/Dropout.cpp)."""
    if not train or p == 0 or values.numel() == 0:
        return values
    if p == 1:
        return values * values.new_zeros(())
    kept: Tensor = torch.ops.aten.native_dropout(values, p, True)[0]
    return kept
