"""Scaled dot-product attention as a GPU runs it, as far as memory is concerned: which kernel, and what it keeps.

The fused kernels keep query, key, value, output and a logsumexp in fp32 for the backward pass, never the matrix of
weights (B, H, L, S); torch's meta functions know the sizes. What they allocate within, such as the fp32 sum of the
query's gradient in flash attention's backward pass, no trace sees.
"""

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

MAX_FLASH_HEAD_DIM = 256
FLASH_ALIGNMENT = 8  # of the head dimension, which is padded to it
MASK_ALIGNMENT = 8
_HALF = (torch.float16, torch.bfloat16)


class Kernel(Enum):
    FLASH = "flash"
    MEMORY_EFFICIENT = "memory-efficient"
    MATH = "math"


def chosen_kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, enable_gqa: bool
) -> Kernel:
    """The kernel of a GPU of compute capability 8.0 or more for (B, H, L, E), (B, H, S, E) and (B, H, S, V).

    After select_sdp_backend in aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (torch 2.15), with its defaults:
    fp32 and masks rule out flash attention, head dimensions of no whole 16 bytes memory-efficient attention.
    Where Hopper and Blackwell prefer cuDNN's kernel, it keeps what the ones named here do, but for padding.
    """
    if not _is_dense(query, key, value):
        return Kernel.MATH
    if _suits_flash(query, key, value, mask, is_causal, enable_gqa):
        return Kernel.FLASH
    return Kernel.MEMORY_EFFICIENT if _suits_memory_efficient(query, key, value) else Kernel.MATH


def _is_dense(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """check_tensor_shapes, check_nonzero_sequence_lengths_dense and check_last_dim_stride_equals_1_dense."""
    inputs = (query, key, value)
    return (
        all(one.dim() == 4 and one.stride(-1) == 1 and one.shape[-2] > 0 for one in inputs)
        and query.shape[0] == key.shape[0] == value.shape[0]
        and query.dtype == key.dtype == value.dtype
    )


def _suits_flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, enable_gqa: bool
) -> bool:
    """can_use_flash_attention."""
    heads = query.shape[1]
    return (
        mask is None
        and query.dtype in _HALF
        and query.shape[-1] == key.shape[-1] == value.shape[-1] <= MAX_FLASH_HEAD_DIM
        and not (is_causal and query.shape[-2] != key.shape[-2])
        and all(heads == one.shape[1] or (enable_gqa and heads % one.shape[1] == 0) for one in (key, value))
    )


def _suits_memory_efficient(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """can_use_mem_efficient_attention; grouped queries, which only newer versions take, are left to the next one."""
    alignment = 16 // query.element_size()
    return (
        query.dtype in (*_HALF, torch.float32)
        and query.shape[1] == key.shape[1] == value.shape[1]
        and query.shape[-1] == key.shape[-1]
        and query.shape[-1] % alignment == value.shape[-1] % alignment == 0
    )


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """aten::scaled_dot_product_attention (native/transformers/attention.cpp), by the kernel that CUDA would choose."""
    kernel = chosen_kernel(query, key, value, attn_mask, is_causal, enable_gqa)
    if kernel is Kernel.FLASH:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    bias = None if attn_mask is None else _as_bias(attn_mask, query.dtype)
    if kernel is Kernel.MEMORY_EFFICIENT:
        return _memory_efficient(query, key, value, bias, dropout_p, is_causal, scale)
    result: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, bias, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return result


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, scale: float | None) -> Tensor:
    head_dim = query.shape[-1]
    scale = scale if scale is not None else 1 / math.sqrt(head_dim)
    padded = (_padded(one, FLASH_ALIGNMENT) for one in (query, key, value))
    result: Tensor = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=scale)[0]
    return result[..., :head_dim] if result.shape[-1] != head_dim else result


def _memory_efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    if bias is not None:
        if any(stride % MASK_ALIGNMENT for stride in bias.stride()[:-1]) or bias.stride(-1) != 1:
            bias = _padded(bias, MASK_ALIGNMENT)[..., : bias.shape[-1]]
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    trains = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    result: Tensor = aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, trains, dropout_p, is_causal, scale=scale
    )[0]
    return result


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what may be attended to as one to be added (convert_boolean_attn_mask)."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -math.inf)


def _padded(tensor: Tensor, alignment: int) -> Tensor:
    missing = -tensor.shape[-1] % alignment
    return F.pad(tensor, (0, missing)) if missing else tensor
