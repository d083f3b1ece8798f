"""Fake tensors for a trace, with the types that torch's kernels give norms in mixed precision.

Under autocast a norm may be given values of half precision, and parameters and running statistics in fp32. The kernels
then keep mean and inverse deviation for the backward pass in fp32: the CPU's by native/cpu/mixed_data_type.h, CUDA's
always. torch's decompositions, of which fake tensors take their types, give them the type of the values.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

_aten = torch.ops.aten
# Where a norm's weight, bias and running statistics are among its arguments; its input is the first.
_PARAMETERS = {
    _aten.native_batch_norm.default: slice(1, 5),
    _aten.native_layer_norm.default: slice(2, 4),
    _aten.native_group_norm.default: slice(1, 3),
}
_GROUP_NORM_BACKWARD = _aten.native_group_norm_backward.default  # gradients of the input, weight and bias


class KernelFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A FakeTensorMode in which norms, forward and backward, return tensors of the types that kernels return."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        result: Any = super().__torch_dispatch__(func, types, args, kwargs)
        if func in _PARAMETERS:
            output, *statistics = result
            dtype = statistics_dtype(args[0], args[_PARAMETERS[func]])
            return output, *(one if one.dtype == dtype else one.to(dtype) for one in statistics)  # `to` takes its time
        if func is _GROUP_NORM_BACKWARD:
            gradient, *of_parameters = result
            return None if gradient is None else gradient.to(args[1].dtype), *of_parameters
        return result


def statistics_dtype(values: Tensor, parameters: Sequence[Tensor | None]) -> torch.dtype:
    """What a norm of `values` keeps its statistics in: the kernels' `param_scalar_type`."""
    mixed = any(one is not None and one.dtype != values.dtype for one in parameters)
    return torch.float32 if mixed else values.dtype
