"""What a trace takes CUDA to do: the casts of torch's own autocast, attention by the kernel a GPU would choose.

The casts are held against torch's CUDA autocast itself, on fake CUDA tensors. For attention there is nothing to be
held against without a GPU: the rules are those of torch's sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from jobs import cuda_autocast
from jobs.cuda_attention import Kernel, chosen_kernel, scaled_dot_product_attention
from jobs.cuda_semantics import as_on_cuda

BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64
# Before, fake CUDA tensors of a network need a GPU, so that there is nothing to compare with.
needs_fake_cuda = pytest.mark.skipif(
    not torch.backends.cuda.is_built() or torch.__version__ < "2.11", reason="fake CUDA tensors need a GPU"
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def autocast_to_bf16(device: str) -> Iterator[None]:
    """torch.autocast, without its refusal of CUDA where no GPU is."""
    torch.set_autocast_dtype(device, BF16)
    torch.set_autocast_enabled(device, True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, False)


def half(device: str, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=BF16, device=device)


def single(device: str, *shape: int) -> Tensor:
    return torch.empty(*shape, device=device)


OPERATIONS: dict[str, Callable[[str], Tensor]] = {
    "add": lambda on: half(on, 4, 4) + single(on, 4, 4),
    "addcmul of two types": lambda on: torch.addcmul(half(on, 4), single(on, 4), half(on, 4)),
    "addcmul of one": lambda on: torch.addcmul(half(on, 4), half(on, 4), half(on, 4)),
    "addmv": lambda on: torch.addmv(single(on, 4), single(on, 4, 4), single(on, 4)),
    "avg_pool3d": lambda on: F.avg_pool3d(half(on, 1, 1, 4, 4, 4), 2),
    "bmm": lambda on: torch.bmm(single(on, 2, 4, 4), half(on, 2, 4, 4)),
    "cat": lambda on: torch.cat([half(on, 4), single(on, 4)]),
    "conv2d": lambda on: F.conv2d(single(on, 1, 3, 8, 8), single(on, 4, 3, 3, 3), padding="same"),
    "cross_entropy": lambda on: F.cross_entropy(half(on, 4, 3), torch.zeros(4, dtype=torch.int64, device=on)),
    "cumsum": lambda on: half(on, 4).cumsum(0),
    "double": lambda on: F.layer_norm(torch.empty(4, dtype=FP64, device=on), (4,)),
    "einsum": lambda on: torch.einsum("ij,jk->ik", single(on, 4, 4), single(on, 4, 4)),
    "exp": lambda on: half(on, 4).exp(),
    "gelu": lambda on: F.gelu(half(on, 4)),
    "grid_sample": lambda on: F.grid_sample(half(on, 1, 1, 4, 4), half(on, 1, 4, 4, 2), align_corners=False),
    "group_norm": lambda on: F.group_norm(half(on, 2, 4, 4), 2),
    "index_put": lambda on: half(on, 4).index_put((torch.zeros(1, dtype=torch.int64, device=on),), single(on, 1)),
    "interpolate": lambda on: F.interpolate(half(on, 1, 1, 4, 4), scale_factor=2, mode="bilinear"),
    "layer_norm": lambda on: F.layer_norm(half(on, 4), (4,)),
    "linear": lambda on: F.linear(single(on, 4, 4), single(on, 4, 4), single(on, 4)),
    "log_softmax": lambda on: half(on, 4).log_softmax(0),
    "matmul": lambda on: single(on, 4, 4) @ single(on, 4, 4),
    "mean": lambda on: half(on, 4).mean(),
    "mse_loss": lambda on: F.mse_loss(half(on, 4), half(on, 4)),
    "norm": lambda on: half(on, 4, 4).norm(),
    "norm over a dimension": lambda on: F.normalize(half(on, 4, 4)),
    "pad": lambda on: F.pad(half(on, 1, 1, 4, 4), (1, 1, 1, 1), mode="reflect"),
    "pow": lambda on: half(on, 4) ** 2,
    "relu": lambda on: half(on, 4).relu(),
    "softmax": lambda on: half(on, 4).softmax(0),
    "softmax of a named type": lambda on: half(on, 4).softmax(0, dtype=BF16),
    "sum": lambda on: half(on, 4).sum(),
    "sum of integers": lambda on: torch.zeros(4, dtype=torch.int64, device=on).sum(),
    "var": lambda on: half(on, 4).var(),
}


@needs_fake_cuda
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_an_operator_casts_as_cuda_s_autocast_does(operation: Callable[[str], Tensor]) -> None:
    with FakeTensorMode():
        with autocast_to_bf16("cuda"):
            expected = operation("cuda").dtype
        with as_on_cuda(), autocast_to_bf16("cpu"):
            assert operation("cpu").dtype == expected


def test_every_operator_that_cuda_casts_is_known() -> None:
    """When a new torch casts more, the lists are to be brought up to date."""
    named = cuda_autocast.LOWER_PRECISION | cuda_autocast.FP32 | cuda_autocast.FP32_BY_DTYPE | cuda_autocast.PROMOTE
    known = named | cuda_autocast.FP32_BY_OVERLOAD.keys() | cuda_autocast.registered("AutocastCPU")
    of_cudnn = {name for name in cuda_autocast.registered("AutocastCUDA") if "cudnn" in name or "_thnn_" in name}
    of_names = {name for name in cuda_autocast.registered("AutocastCUDA") if "imname" in name or "names_" in name}
    assert cuda_autocast.registered("AutocastCUDA") - of_cudnn - of_names <= known


def transformer() -> nn.Module:
    """All that CPU and CUDA cast otherwise: attention by hand, layer norm, GELU; dropout, and a shared weight."""
    shared = nn.Linear(16, 16)
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4),
        nn.Flatten(2),
        nn.LayerNorm(4),
        nn.Flatten(1),
        nn.Unflatten(1, (4, 16)),
        shared,
        nn.GELU(),
        nn.Softmax(-1),
        shared,
        nn.GroupNorm(2, 4),
        nn.Dropout(0.1),
        nn.Flatten(1),
        nn.Linear(64, 10),
    )


def saved_for_backward(device: str, bf16: bool) -> Counter[tuple[torch.Size, torch.dtype]]:
    """Shapes and types of what the forward pass of a network on fake tensors keeps for the backward pass."""
    saved: Counter[tuple[torch.Size, torch.dtype]] = Counter()

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.shape, tensor.dtype] += 1
        return tensor

    with FakeTensorMode(), torch.device(device):
        network, images, labels = transformer(), torch.empty(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if bf16:
                with autocast_to_bf16(device):
                    F.cross_entropy(network(images), labels)
            else:
                F.cross_entropy(network(images), labels)
    return saved


@needs_fake_cuda
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_network_keeps_for_its_backward_pass_what_it_keeps_on_cuda(bf16: bool) -> None:
    expected = saved_for_backward("cuda", bf16)
    with as_on_cuda():
        assert saved_for_backward("cpu", bf16) == expected


def test_outside_the_cpu_s_autocast_is_the_cpu_s_again() -> None:
    with as_on_cuda():
        pass
    with autocast_to_bf16("cpu"):
        layer_norm, pool = OPERATIONS["layer_norm"]("cpu"), OPERATIONS["avg_pool3d"]("cpu")
    assert (layer_norm.dtype, pool.dtype) == (BF16, FP32)


def test_it_is_so_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), as_on_cuda():
        raise ZeroDivisionError
    assert torch.backends.mha.get_fastpath_enabled()
    with autocast_to_bf16("cpu"):
        assert OPERATIONS["layer_norm"]("cpu").dtype == BF16


class TestDropout:
    def test_keeps_a_mask_of_booleans(self) -> None:
        with FakeTensorMode(), as_on_cuda():
            dropped: Any = F.dropout(torch.empty(8, 8, requires_grad=True), 0.5)
        assert dropped.grad_fn._saved_result1.dtype == torch.bool

    @pytest.mark.parametrize(("p", "train"), [(0.0, True), (0.5, False)])
    def test_that_drops_nothing_keeps_nothing(self, p: float, train: bool) -> None:
        values = torch.ones(8, requires_grad=True)
        with as_on_cuda():
            assert F.dropout(values, p, train).untyped_storage().data_ptr() == values.untyped_storage().data_ptr()

    def test_of_everything_leaves_zeros(self) -> None:
        with as_on_cuda():
            assert not F.dropout(torch.ones(8), 1.0).any()


def chosen(
    query: tuple[int, ...],
    key: tuple[int, ...] | None = None,
    dtype: torch.dtype = BF16,
    *,
    masked: bool = False,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Kernel:
    one, other = torch.empty(query, dtype=dtype), torch.empty(key or query, dtype=dtype)
    mask = torch.empty(query[-2], other.shape[-2]) if masked else None
    return chosen_kernel(one, other, other, mask, is_causal, enable_gqa)


class TestChoiceOfKernel:
    def test_flash_for_half_precision(self) -> None:
        assert chosen((2, 4, 10, 64)) == chosen((2, 4, 10, 64), dtype=torch.float16) == Kernel.FLASH

    def test_flash_up_to_heads_of_256(self) -> None:
        assert [chosen((2, 4, 10, head)) for head in (256, 264)] == [Kernel.FLASH, Kernel.MEMORY_EFFICIENT]

    def test_flash_for_heads_of_any_size_which_it_pads(self) -> None:
        assert chosen((2, 4, 10, 5)) == Kernel.FLASH

    def test_memory_efficient_for_fp32(self) -> None:
        assert chosen((2, 4, 10, 64), dtype=FP32) == Kernel.MEMORY_EFFICIENT

    def test_memory_efficient_for_masks(self) -> None:
        assert chosen((2, 4, 10, 64), masked=True) == Kernel.MEMORY_EFFICIENT

    def test_memory_efficient_for_a_causal_rectangle(self) -> None:
        assert chosen((2, 4, 10, 64), (2, 4, 12, 64), is_causal=True) == Kernel.MEMORY_EFFICIENT

    @pytest.mark.parametrize(("dtype", "head"), [(FP32, 6), (BF16, 12)])
    def test_the_matrix_where_rows_are_no_whole_16_bytes(self, dtype: torch.dtype, head: int) -> None:
        assert chosen((2, 4, 10, head), dtype=dtype, masked=True) == Kernel.MATH

    def test_the_matrix_without_heads_and_for_doubles(self) -> None:
        assert chosen((4, 10, 64)) == chosen((2, 4, 10, 64), dtype=FP64) == Kernel.MATH

    def test_grouped_queries_are_for_flash_alone(self) -> None:
        assert chosen((2, 4, 10, 64), (2, 2, 10, 64), enable_gqa=True) == Kernel.FLASH
        assert chosen((2, 4, 10, 64), (2, 2, 10, 64), dtype=FP32, enable_gqa=True) == Kernel.MATH


def attended(dtype: torch.dtype, mask: Tensor | None = None, length: int = 100, head: int = 16) -> Any:
    inputs = [torch.empty(2, 4, length, head, dtype=dtype, requires_grad=True) for _ in range(3)]
    return scaled_dot_product_attention(*inputs, mask)


def matrices(saved: list[Tensor], length: int) -> list[Tensor]:
    return [tensor for tensor in saved if tensor.shape[-2:] == (length, length)]


class TestAttention:
    @pytest.mark.parametrize(("dtype", "columns"), [(BF16, 100), (FP32, 128)])
    def test_keeps_a_logsumexp_in_fp32_padded_where_the_kernel_does(self, dtype: torch.dtype, columns: int) -> None:
        with FakeTensorMode():
            function = attended(dtype).grad_fn
        name = "_saved_logsumexp" if dtype == BF16 else "_saved_log_sumexp"
        kept = getattr(function, name)
        assert (kept.shape, kept.dtype) == ((2, 4, columns), FP32)

    @pytest.mark.parametrize("dtype", [BF16, FP32])
    def test_of_fused_kernels_keeps_no_matrix_of_weights(self, dtype: torch.dtype) -> None:
        saved: list[Tensor] = []
        with (
            FakeTensorMode(),
            torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one),
        ):
            attended(dtype)
        assert saved
        assert not matrices(saved, 100)

    def test_pads_a_mask_of_an_odd_length_for_the_kernel(self) -> None:
        with FakeTensorMode():
            function = attended(FP32, torch.empty(101, 101, dtype=torch.bool), length=101).grad_fn
        assert function._saved_attn_bias.shape == (2, 4, 101, 101)
        assert function._saved_attn_bias.stride(-2) == 104
        assert function._saved_attn_bias.untyped_storage().nbytes() == 101 * 104 * 4

    def test_goes_backward_through_every_kernel(self) -> None:
        with FakeTensorMode():
            for result in (attended(BF16), attended(FP32), attended(FP64), attended(BF16, head=5)):
                assert result.shape[:3] == (2, 4, 100)
                result.sum().backward()

    def test_of_the_matrix_is_right(self) -> None:
        generator = torch.Generator().manual_seed(1)
        query, key, value = torch.randn(3, 2, 4, 10, 6, generator=generator).unbind()
        mask = torch.rand(10, 10, generator=generator) > 0.3
        expected = F.scaled_dot_product_attention(query, key, value, mask)
        torch.testing.assert_close(scaled_dot_product_attention(query, key, value, mask), expected)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_modules_of_torch_come_to_it(self, training: bool) -> None:
        seen: list[str] = []

        class Names(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                seen.append(func.__name__)
                return func(*args, **(kwargs or {}))

        with FakeTensorMode(), as_on_cuda(), Names(), autocast_to_bf16("cpu"), torch.set_grad_enabled(training):
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).train(training)
            layer(torch.empty(2, 10, 32))
        assert "_scaled_dot_product_flash_attention.default" in seen
