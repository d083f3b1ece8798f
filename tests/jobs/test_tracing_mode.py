"""What a TracingMode remembers is what torch's own fake tensors would have been."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from jobs.kernel_fakes import KernelFakeMode
from jobs.storages import Storages, StorageTrace
from jobs.tracing_mode import Kind, Results, TracingMode, kind_of

IMAGES = (4, 3, 16, 16)
UNFIT = r"size|shape|broadcast"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = F.relu_(self.stem(images))
        for block in self.blocks:
            values = F.relu(values + block(values), inplace=True)
        pooled = F.adaptive_avg_pool2d(values, 1).flatten(1)
        spread = torch.cat([pooled, F.dropout(pooled, 0.1)], 1)
        return self.head(spread)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.places = nn.Parameter(torch.zeros(1, 16, 12))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(12, 2, 24, batch_first=True) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        first, *_rest = tokens.unbind(1)
        halves = first.chunk(2, dim=-1)
        return halves[0] * (halves[1] * 2).add_(1)


class Odd(nn.Module):
    """Operators that change, share or choose."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 6)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        self.steps += 1
        rows = self.table((images[:, 0, 0] * 3).long().clamp(0, 15))
        rows = rows.masked_fill(rows > 1, 0.0)[:, ::2]
        best, places = rows.topk(3, dim=1)
        picked = rows.gather(1, places) + best.expand_as(best)
        out = torch.empty(picked.shape)
        torch.mul(picked.detach(), 2, out=out)
        split = torch.split(picked.permute(0, 2, 1), [1, 2], dim=2)
        return torch.einsum("bci,bcj->bc", *split) + out.sum(1) + torch.arange(6) + torch.tensor(1.5)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"residual": Residual, "attending": Attending, "odd": Odd}


class Seen(TorchDispatchMode):
    """Keeps what operators return in words: sizes, strides, types, and which storage it is, in order of appearance."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, Any]] = []
        self._numbers = count()
        self._storages: list[torch.UntypedStorage] = []  # kept, so that none takes the place of another
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.seen.append((str(func), tree_map(self._words, result)))
        return result

    def _words(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        self._storages.append(storage)
        number = self._known.setdefault(id(storage), next(self._numbers))
        size = storage.nbytes()
        return tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, value.device, number, size


def steps(network: Callable[[], nn.Module], precision: torch.dtype) -> Iterator[None]:
    """Two steps of training and one of evaluation."""
    made = network()
    optimizer = torch.optim.AdamW(made.parameters(), foreach=True)
    images = torch.rand(IMAGES).to(memory_format=torch.channels_last)
    for _ in range(2):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = made(images).float().pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield
    with torch.no_grad():
        made.eval()(images)
    yield


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_that_operators_return_is_what_torch_s_fake_tensors_are(network: str, precision: torch.dtype) -> None:
    seen = []
    for mode in (KernelFakeMode(), TracingMode()):
        with mode, Seen() as returned:
            for _ in steps(NETWORKS[network], precision):
                pass
        seen.append(returned.seen)
    assert len(seen[0]) > 150
    assert seen[1] == seen[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_counting_is_what_a_trace_on_top_counts(network: str) -> None:
    counted, mode, plain = Storages(), TracingMode(), KernelFakeMode()
    with mode.counting(counted):
        peaks = [counted.peak_since() for _ in steps(NETWORKS[network], torch.float32)]
    with plain, StorageTrace() as on_top:
        expected = [on_top.peak_since() for _ in steps(NETWORKS[network], torch.float32)]
    assert peaks == expected
    assert [size for _, size in counted.events] == [size for _, size in on_top.events]


def test_nothing_is_counted_before_and_after() -> None:
    memory, mode = Storages(), TracingMode()
    with mode:
        before = torch.zeros(10)
    with mode.counting(memory):
        between = torch.zeros(10)
    with mode:
        after = torch.zeros(10)
    assert (memory.live_bytes, len(tree_leaves([before, between, after]))) == (40, 3)


def test_what_an_operator_is_made_of_does_not_count() -> None:
    memory, mode = Storages(), TracingMode()
    with mode.counting(memory):
        values = torch.zeros(100)
        result = F.hardswish(values)  # which torch takes apart, into a sum, bounds, a product and a quotient
    assert memory.peak_bytes == values.nbytes + result.nbytes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The operators that are left to torch."""
    operators: list[Any] = []
    by_torch = TracingMode._by_torch

    def noting(self: TracingMode, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        operators.append(func)
        return by_torch(self, func, types, args, kwargs)

    monkeypatch.setattr(TracingMode, "_by_torch", noting)
    return operators


def test_most_of_a_second_step_is_remembered(asked: list[Any]) -> None:
    with TracingMode():
        network, images = Attending(), torch.rand(IMAGES)
        asked.clear()
        network(images).sum().backward()
        first = len(asked)
        network(images).sum().backward()
    assert first > 100
    assert len(asked) - first < first / 5  # gradients now add up


def test_another_mode_may_know_what_one_has_seen(asked: list[Any]) -> None:
    results: Results = {}
    with TracingMode(results):
        first = torch.zeros(3).exp()
    asked.clear()
    with TracingMode(results) as mode:
        second = torch.zeros(3).exp()
    assert asked == []
    assert (second.shape, second.dtype, second.fake_mode) == (first.shape, first.dtype, mode)


class TestArguments:
    """That are not alike are not taken for one another."""

    def test_numbers_that_are_equal_but_of_another_type(self) -> None:
        with TracingMode():
            whole = torch.zeros(3, dtype=torch.int64)
            types = [(whole * number).dtype for number in (1, 1.0, True, 1, 1.0)]
        assert types == [torch.int64, torch.float32, torch.int64, torch.int64, torch.float32]

    def test_strides(self) -> None:
        with TracingMode():
            flat = torch.zeros(2, 3, 4, 4)
            last = flat.to(memory_format=torch.channels_last)
            assert [(one + 1).stride() for one in (flat, last, flat)] == [flat.stride(), last.stride(), flat.stride()]

    def test_values_of_arguments_by_name(self) -> None:
        with TracingMode():
            one = torch.zeros(3, 4)
            sums = [one.sum(1, keepdim=keep).shape for keep in (True, False, True)]
        assert sums == [(3, 1), (3,), (3, 1)]

    def test_names_of_arguments(self) -> None:
        variance = torch.ops.aten.var.correction
        with TracingMode():
            one = torch.zeros(3, 4)
            shapes = [variance(one, [1], **{name: True}).shape for name in ("correction", "keepdim", "correction")]
        assert shapes == [(3,), (3, 1), (3,)]

    def test_where_a_list_ends(self) -> None:
        with TracingMode():
            one = torch.zeros(3, 4)
            one.roll([1, 0], [0, 1])
            with pytest.raises(RuntimeError, match="must align"):
                one.roll([1, 0, 0], [1])

    def test_the_default_type(self) -> None:
        with TracingMode():
            first = torch.zeros(3)
            torch.set_default_dtype(torch.float64)
            try:
                second = torch.zeros(3)
            finally:
                torch.set_default_dtype(torch.float32)
        assert (first.dtype, second.dtype) == (torch.float32, torch.float64)

    def test_fake_tensors_of_another_mode_are_refused(self) -> None:
        with TracingMode():
            stranger = torch.zeros(3)
        with TracingMode():
            torch.zeros(3) + 1
            with pytest.raises(AssertionError, match="Mixing fake modes"):
                stranger + 1


class TestWhatDependsOnValues:
    def test_a_known_value_stays_known(self) -> None:
        with TracingMode():
            values = [(torch.tensor(number) + 1).item() for number in (1, 2, 1)]
        assert values == [2, 3, 2]

    def test_an_unknown_value_is_refused_each_time(self) -> None:
        with TracingMode():
            one = torch.zeros(3)
            for _ in range(2):
                with pytest.raises(DataDependentOutputException):
                    bool(one.any())

    def test_known_values_are_changed_in_lists(self) -> None:
        with TracingMode():
            steps = [torch.tensor(1.0), torch.tensor(2.0)]
            torch._foreach_add_(steps, 1)
            assert [one.item() for one in steps] == [2.0, 3.0]


class TestErrors:
    def test_shapes_that_do_not_fit_are_refused_each_time(self) -> None:
        with TracingMode():
            one, other = torch.zeros(3), torch.zeros(4)
            for _ in range(2):
                with pytest.raises(RuntimeError, match=UNFIT):
                    one + other
                with pytest.raises(RuntimeError, match=UNFIT):
                    one.add_(other)

    def test_so_are_views_that_cannot_be(self) -> None:
        with TracingMode():
            for _ in range(2):
                with pytest.raises(RuntimeError, match="invalid for input"):
                    torch.zeros(3).view(4)


class TestSharing:
    def test_what_is_made_again_has_a_storage_of_its_own(self) -> None:
        with TracingMode():
            one = torch.zeros(3)
            sums = [one + 1 for _ in range(3)]
        assert len({id(each.untyped_storage()) for each in sums}) == 3

    def test_what_is_part_of_something_larger_stays_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def part(mode: KernelFakeMode, *_: object) -> Tensor:
            with mode:
                return torch.zeros(10)[:3]

        with TracingMode() as mode:
            one = torch.zeros(3)
            whole = torch.zeros(10)
            del whole
            monkeypatch.setattr(KernelFakeMode, "__torch_dispatch__", part)
            sums = [one.exp() for _ in range(2)]
        assert [each.untyped_storage().nbytes() for each in sums] == [40, 40]
        assert sums[0].fake_mode is mode

    def test_sparse_gradients_stay_sparse(self) -> None:
        with TracingMode():
            table = nn.Embedding(5, 3, sparse=True)
            for _ in range(2):
                table(torch.zeros(4, dtype=torch.int64)).sum().backward()
                assert table.weight.grad is not None
                assert table.weight.grad.is_sparse

    def test_what_changes_in_place_is_itself(self) -> None:
        with TracingMode():
            one = torch.zeros(3)
            assert all(one.mul_(2) is one for _ in range(3))

    def test_a_tensor_that_grew_in_place_is_known_by_its_new_size(self) -> None:
        with TracingMode():
            one = torch.zeros(3)
            before = (one + 1).shape
            one.resize_(5)
            assert (before, (one + 1).shape) == ((3,), (5,))

    def test_views_of_a_view_share_its_storage(self) -> None:
        with TracingMode():
            one = torch.zeros(4, 4)
            parts = [part.t()[1:] for part in one.split(2)]
        assert {id(part.untyped_storage()) for part in parts} == {id(one.untyped_storage())}


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (torch.ops.aten.convolution.default, Kind.REMEMBER),
        (torch.ops.aten.view.default, Kind.VIEW),
        (torch.ops.aten._foreach_mul_.Scalar, Kind.PASS),
        (torch.ops.aten._foreach_sqrt.default, Kind.REMEMBER),
        (torch.ops.aten.nonzero.default, Kind.LEAVE),
        (torch.ops.aten._local_scalar_dense.default, Kind.LEAVE),
        (torch.ops.aten.resize_.default, Kind.LEAVE),
        (torch.ops.aten.lift_fresh.default, Kind.LEAVE),
        (torch.ops.profiler._record_function_enter_new.default, Kind.LEAVE),
    ],
)
def test_what_is_done_with_an_operator(operator: Any, kind: Kind) -> None:
    assert kind_of(operator) is kind
