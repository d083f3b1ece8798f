"""The fake tensors of a trace: what an operator returned once is made again when its arguments are alike.

A network is the same few layers over and over, and a step is the same as the last. torch's FakeTensorMode remembers
results as well, but takes 0.1 to 0.2 ms an operator to describe the arguments and to make the result anew; this one
takes a third of that (docs/estimation.md, "What an estimate costs"), and leaves to torch's what it is not sure of.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

from jobs.kernel_fakes import KernelFakeMode
from jobs.storages import Storages

_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_VIEWS = {
    _aten._unsafe_view.default,
    _aten.alias.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}
_LIFTS = {_aten.lift.default, _aten.lift_fresh.default, _aten.lift_fresh_copy.default}  # they keep values
# What they return depends on values, or they change in place what a tensor is.
_UNSURE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}


class Kind(Enum):
    """What is done with an operator."""

    REMEMBER = auto()
    VIEW = auto()  # made at once, which is as cheap as remembering it
    PASS = auto()  # over: it changes values of many tensors and returns nothing
    LEAVE = auto()  # to torch


class _NotComparableError(Exception):
    """An argument of which more matters than can be told in a few words."""


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A tensor with a storage of its own, no larger than it needs."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class _Result:
    """What an operator returned: its first argument, or a fresh tensor, or a list or tuple of those."""

    tensors: tuple[_Fresh | None, ...] = ()
    container: type | None = None
    is_first_argument: bool = False


Results = dict[tuple[object, ...], _Result | None]  # by operator and arguments; None: not to be remembered


class TracingMode(KernelFakeMode):  # type: ignore[no-untyped-call]
    """A FakeTensorMode that remembers results, and counts the storages of what operators under it return.

    What operators do within themselves is not counted: neither is it seen of real ones.
    """

    def __init__(self, results: Results | None = None) -> None:
        """`results` are those of earlier traces, and are added to."""
        super().__init__()
        self.cache_enabled = False  # torch's own memory would only be asked for what is not in this one
        self._storages: Storages | None = None
        self._results: Results = {} if results is None else results
        self._depth = 0  # of operators that torch takes apart

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so that torch need not guard each call from its compiler."""
        return False

    @contextmanager
    def counting(self, storages: Storages) -> Iterator[None]:
        """Enter this mode, and have what is made in it counted."""
        self._storages = storages
        try:
            with self:
                yield
        finally:
            self._storages = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        if func is _DEVICE:  # autograd's engine asks for it more often than for all else together
            return args[0].device
        kind = kind_of(func)
        if kind is Kind.PASS and all(self._is_plain(one) for one in args[0]):
            return None
        if kind is Kind.VIEW and self._is_plain(args[0]):
            result = self._view(func, args, kwargs)
        elif kind is Kind.REMEMBER:
            result = self._remembered(func, types, args, kwargs)
        else:
            result = self._by_torch(func, types, args, kwargs)
        if self._storages is not None and self._depth == 0:
            if type(result) is FakeTensor:
                self._storages.count(result)
            else:
                self._storages.track(result)
        return result

    def _by_torch(self, func: Any, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._depth += 1
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._depth -= 1

    def _view(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        with in_kernel_invocation_manager(self):
            view = func(*args, **kwargs)
        return FakeTensor(self, view, args[0].device)

    def _remembered(self, func: Any, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            call = (func, torch.get_default_dtype(), *kwargs, *self._described((args, [*kwargs.values()])))
            known = self._results.get(call, ...)
        except (_NotComparableError, TypeError):  # TypeError: of an argument that cannot be hashed
            return self._by_torch(func, types, args, kwargs)
        if isinstance(known, _Result):
            return self._again(known, args)
        result = self._by_torch(func, types, args, kwargs)
        if known is ...:
            self._results[call] = self._to_remember(result, args, kwargs)
        return result

    def _described(self, values: Iterable[object]) -> list[object]:
        """All that an operator can tell of its arguments in a trace. Raises _NotComparableError."""
        words: list[object] = []
        for value in values:
            if self._is_plain(value):
                words.append((value.shape, value.stride(), value.dtype, value.device))
            elif isinstance(value, (list, tuple)):
                words.append(len(value))
                words += self._described(value)
            elif isinstance(value, Tensor):
                raise _NotComparableError
            else:
                words += (type(value), value)  # 1, 1.0 and True are equal, but not alike
        return words

    def _is_plain(self, value: object) -> TypeGuard[FakeTensor]:
        """Whether it is a fake tensor of which no value is known, and which has shape and strides."""
        return (
            type(value) is FakeTensor
            and value.constant is None
            and value.fake_mode is self
            and value.layout is torch.strided
        )

    def _again(self, known: _Result, args: Sequence[Any]) -> Any:
        if known.is_first_argument:
            return args[0]
        tensors = [None if one is None else self._made(one) for one in known.tensors]
        return tensors[0] if known.container is None else known.container(tensors)

    def _made(self, fresh: _Fresh) -> FakeTensor:
        with torch._C._DisableTorchDispatch():
            meta = torch.empty_strided(fresh.shape, fresh.stride, dtype=fresh.dtype, device="meta")
        return FakeTensor(self, meta, fresh.device)

    def _to_remember(self, result: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Result | None:
        """None if it cannot be made again, as what shares an argument's storage."""
        if args and result is args[0]:
            return _Result(is_first_argument=True)
        container = type(result) if type(result) in (list, tuple) else None
        taken = {id(one.untyped_storage()) for one in tree_leaves((args, dict(kwargs))) if isinstance(one, Tensor)}
        tensors: list[_Fresh | None] = []
        for one in [result] if container is None else result:
            tensors.append(None if one is None else self._fresh(one, taken))
            if one is not None and tensors[-1] is None:
                return None
        return _Result(tuple(tensors), container)

    def _fresh(self, tensor: object, taken: set[int]) -> _Fresh | None:
        """None if its storage is among those `taken`, to which it is added, or larger than it needs."""
        if not self._is_plain(tensor):
            return None
        fresh = _Fresh(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        storage, like = tensor.untyped_storage(), self._made(fresh).untyped_storage()
        if id(storage) in taken or storage.nbytes() != like.nbytes():
            return None
        taken.add(id(storage))
        return fresh


@cache
def kind_of(func: Any) -> Kind:
    """What `TracingMode` does with an operator."""
    if not isinstance(func, OpOverload) or func.namespace != "aten" or func in _LIFTS or _UNSURE & set(func.tags):
        return Kind.LEAVE
    if func in _VIEWS:
        return Kind.VIEW
    name = func.overloadpacket.__name__
    return Kind.PASS if name.startswith("_foreach_") and name.endswith("_") else Kind.REMEMBER
