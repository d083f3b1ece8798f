"""CUDA's autocast, run on CPU tensors: what each operator is cast to in a region of `torch.autocast("cpu")`.

`torch.autocast("cuda")` casts tensors on a GPU alone, and turns itself off where there is none. The CPU's has lists of
its own. So the kernels given here are to take the places of the CPU's in torch's dispatcher: above autograd, where
casts are recorded for the backward pass, as on a GPU.

The lists are those of aten/src/ATen/autocast_mode.h (torch 2.15), by the dispatcher's names; torch's documentation of
torch.amp has them as "CUDA Ops that can autocast". Two things differ: the casts of LOWER_PRECISION below are not kept
for the rest of the region, as a weight's are, and recurrent networks run as on the CPU, not through cuDNN.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.library import fallthrough_kernel
from torch.utils._pytree import tree_leaves, tree_map

Kernel = Callable[..., Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# AT_FORALL_LOWER_PRECISION_FP, as far as the CPU's autocast does not do the same, with the cache of cast weights.
LOWER_PRECISION = _names(
    """_convolution _scaled_dot_product_flash_attention addmv addr chain_matmul convolution einsum gru_cell
    linalg_multi_dot lstm_cell mv rnn_relu_cell rnn_tanh_cell"""
)
# AT_FORALL_FP32
FP32 = _names(
    """_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss
    cosine_similarity dist erfinv exp expm1 frobenius_norm.dim group_norm hinge_embedding_loss huber_loss kl_div l1_loss
    layer_norm log log10 log1p log2 logsumexp margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss
    native_layer_norm nll_loss nll_loss2d nuclear_norm nuclear_norm.dim pdist poisson_nll_loss pow.Scalar
    pow.Tensor_Scalar pow.Tensor_Tensor reciprocal renorm rms_norm rsqrt sinh smooth_l1_loss soft_margin_loss softplus
    tan triplet_margin_loss upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d"""
)
# AT_FORALL_FP32_SET_OPT_DTYPE: fp32 by their own `dtype`, unless the caller names one.
FP32_BY_DTYPE = _names(
    """cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int
    softmax.int sum sum.dim_IntList"""
)
# AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE: fp32 by the overload that takes a `dtype`.
FP32_BY_OVERLOAD = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}
# AT_FORALL_PROMOTE: the widest type among the arguments.
PROMOTE = _names("addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot")
# What the CPU's autocast casts to lower precision and CUDA's does not name: it casts the operator beneath.
_LOWER_ON_CPU = _names(
    """_addmm_activation _native_multi_head_attention conv1d.padding conv2d.padding conv3d.padding
    mkldnn_rnn_layer"""
)


def cast_kernels() -> Iterator[tuple[str, Kernel]]:
    """Operators, by name, and the kernels that cast them as CUDA does, to be registered for AutocastCPU.

    Where the CPU's autocast does the same already, there is none. Operators that the installed torch does not cast on
    CUDA are left out.
    """
    on_cuda, on_cpu = registered("AutocastCUDA"), registered("AutocastCPU")
    for name in on_cuda & FP32:
        yield name, _casting(operator(name), _to_fp32)
    for name in on_cuda & PROMOTE:
        yield name, _casting(operator(name), _to_widest)
    for name in on_cuda & LOWER_PRECISION:
        yield name, _casting(operator(name), _to_lower_precision)
    for name in on_cuda & FP32_BY_DTYPE:
        yield name, _computing_in_fp32(operator(name))
    for name in on_cuda & FP32_BY_OVERLOAD.keys():
        yield name, _norm_in_fp32(operator(name), operator(FP32_BY_OVERLOAD[name]))
    for name in on_cpu - on_cuda - _LOWER_ON_CPU:
        yield name, fallthrough_kernel


def registered(dispatch_key: str) -> set[str]:
    """Names of ATen's operators that have a kernel of their own for a dispatch key."""
    names: list[str] = torch._C._dispatch_get_registrations_for_dispatch_key(dispatch_key)
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def operator(name: str) -> OpOverload:
    """An operator of ATen by its name, such as `softmax.int`."""
    packet, _, overload = name.partition(".")
    found: OpOverload = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return found


def _casting(op: OpOverload, chosen: Callable[[Sequence[torch.dtype]], torch.dtype]) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = chosen([leaf.dtype for leaf in tree_leaves((args, kwargs)) if _is_cast(leaf)])
        with torch.autocast("cpu", enabled=False):
            args, kwargs = tree_map(lambda leaf: leaf.to(dtype) if _is_cast(leaf) else leaf, (args, kwargs))
            return op(*args, **kwargs)

    return kernel


def _to_fp32(_dtypes: Sequence[torch.dtype]) -> torch.dtype:
    return torch.float32


def _to_lower_precision(_dtypes: Sequence[torch.dtype]) -> torch.dtype:
    return torch.get_autocast_dtype("cpu")


def _to_widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    return torch.float32 if torch.float32 in dtypes else _to_lower_precision(dtypes)


def _computing_in_fp32(op: OpOverload) -> Kernel:
    position = [argument.name for argument in op._schema.arguments].index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        named = len(args) > position or kwargs.get("dtype") is not None
        if _is_cast(args[0]) and not named:
            kwargs["dtype"] = torch.float32
        with torch.autocast("cpu", enabled=False):
            return op(*args, **kwargs)

    return kernel


def _norm_in_fp32(op: OpOverload, with_dtype: OpOverload) -> Kernel:
    arguments = op._schema.arguments

    def kernel(*args: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            if not _is_cast(args[0]):
                return op(*args)
            defaults = [argument.default_value for argument in arguments[len(args) :]]
            return with_dtype(*args, *defaults, dtype=torch.float32)

    return kernel


def _is_cast(value: object) -> bool:
    """autocast_mode.h, is_eligible: floating point, and not double."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
