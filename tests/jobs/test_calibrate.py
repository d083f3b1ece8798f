"""What a GPU holds of a process besides tensors. Without a GPU here: torch's CUDA functions are stand-ins."""

import gc
import os
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import augment.operations  # noqa: F401  # has tensors of its own, which are none of the training's
from jobs import calibrate
from jobs.allocator import replay
from jobs.calibrate import Held, Message, Seen, Trouble, hold, see
from jobs.errors import GpuqError
from jobs.storages import StorageTrace

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")
MiB = 1 << 20


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of the operations that run under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def training() -> tuple[StorageTrace, set[str]]:
    """Every tensor of the training, and every operation."""
    torch.set_num_threads(1)
    with Operations() as operations, StorageTrace() as trace:
        calibrate.train_a_little(CPU, "bf16")
    gc.collect()
    return trace, operations.names


def test_no_tensor_outlives_the_training(training: tuple[StorageTrace, set[str]]) -> None:
    assert training[0].live_bytes == 0


def test_the_training_takes_half_of_its_cap_at_most(training: tuple[StorageTrace, set[str]]) -> None:
    """The rest is for workspaces."""
    assert replay(training[0].events).peak_reserved_bytes < calibrate.MOST_BYTES / 2


@pytest.mark.parametrize(
    "operation",
    [
        "grid_sampler_2d",  # of the augmentation
        "convolution_backward",
        "native_batch_norm_backward",
        "addmm",  # the linear layer
        "nll_loss_backward",
        "_foreach_add_",  # the optimizer's step
        "argmax",  # accuracy
    ],
)
def test_the_training_is_a_workers(training: tuple[StorageTrace, set[str]], operation: str) -> None:
    assert operation in training[1]


class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def _cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[object, ...]] = []
        total = SimpleNamespace(total_memory=4 * calibrate.MOST_BYTES)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: total)
        monkeypatch.setattr(
            "torch.cuda.set_per_process_memory_fraction", lambda *arguments: self.calls.append(("cap", *arguments))
        )
        monkeypatch.setattr(calibrate, "train_a_little", lambda *arguments: self.calls.append(("train", *arguments)))
        monkeypatch.setattr("torch.cuda.synchronize", lambda _: None)
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 90 * MiB)
        monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 64 * MiB)

    def test_what_stays_allocated_are_workspaces(self) -> None:
        assert hold(GPU, "bf16") == Held(reserved_bytes=90 * MiB, workspace_bytes=64 * MiB)

    def test_it_is_capped_before_it_trains(self) -> None:
        hold(GPU, "bf16")
        assert self.calls == [("cap", 0.25, GPU), ("train", GPU, "bf16")]

    def test_it_is_seen_with_the_libraries_it_runs_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
        monkeypatch.setattr("torch.backends.cudnn.version", lambda: 92600)
        assert see(GPU) == Seen(name="NVIDIA H200", torch=torch.__version__, cudnn="92600")


@pytest.mark.parametrize(("built", "words"), [("13.2", "built for CUDA 13.2"), (None, "built without CUDA")])
def test_a_gpu_that_torch_does_not_see_is_told_with_what_torch_is(
    monkeypatch: pytest.MonkeyPatch, built: str | None, words: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    with pytest.raises(GpuqError, match=f"{words}, sees no GPU"):
        see(GPU)


AS_A_PROCESS = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # whose end closes its output


class StandardInput:
    """Somebody's open pipe: notes what was said until it is read, then ends."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.buffer = self
        self.said_before: tuple[Message, ...] = ()

    def read(self) -> bytes:
        self.said_before = said(self._capfd)
        return b""


def said(capfd: pytest.CaptureFixture[str]) -> tuple[Message, ...]:
    return tuple(msgspec.json.decode(line, type=Message) for line in capfd.readouterr().out.splitlines())


@AS_A_PROCESS
def test_it_says_what_it_sees_and_holds_whatever_a_library_prints_and_then_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def holding(_device: torch.device, _precision: str) -> Held:
        os.write(1, b"a library prints\n")
        return Held(reserved_bytes=7, workspace_bytes=3)

    monkeypatch.setattr(calibrate, "hold", holding)
    monkeypatch.setattr(sys, "stdin", pipe := StandardInput(capfd))
    calibrate.main("cpu", "fp32")
    seen = Seen(name="the CPU", torch=torch.__version__, cudnn=None)
    assert pipe.said_before == (seen, Held(reserved_bytes=7, workspace_bytes=3))


@AS_A_PROCESS
def test_a_device_that_is_none_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    calibrate.main("toaster")
    (message,) = said(capfd)
    assert isinstance(message, Trouble)
    assert message.reason.startswith("RuntimeError: Expected one of")
