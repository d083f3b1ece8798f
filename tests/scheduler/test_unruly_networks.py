"""Networks that would take the estimator with them: each fails alone, with a line that names it."""

import signal
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from builders import spec
from gpuq_process import Gpuq
from msgspec.structs import replace
from waiting import eventually

from jobs.trace_messages import Reply
from scheduler.device import CpuDevice
from scheduler.tracing import Failed, Limits, Tracer

NETWORKS = dedent(
    """
    import os, signal, sys, threading
    from pathlib import Path

    import torch
    from torch import nn

    BEGUN = Path(__file__).with_name("begun")


    class Tame(nn.Module):
        def __init__(self, classes, channels):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, classes))

        def forward(self, images):
            return self.layers(images)


    class Pair(Tame):
        def forward(self, images):
            return super().forward(images), images


    class Interrupting(Tame):
        def forward(self, images):
            raise KeyboardInterrupt


    class Quitting(Tame):
        def forward(self, images):
            sys.exit()


    class Asking(Tame):
        def forward(self, images):
            input()


    class Leaving(Tame):
        def forward(self, images):
            os._exit(0)


    class Meddling(Tame):
        def forward(self, images):
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.empty = sys.excepthook = None


    class Printing(Tame):
        def forward(self, images):
            print("x" * (1 << 20))
            return super().forward(images)


    class Forking(Tame):
        def forward(self, images):
            os.fork()
            return super().forward(images)


    class Threading(Tame):
        def forward(self, images):
            threading.Thread(target=signal.pause).start()
            return super().forward(images)


    class Straying(Tame):
        def forward(self, images):
            if os.fork() == 0:
                os.setsid()
                with BEGUN.with_name("strays").open("a") as strays:
                    print(os.getpid(), file=strays)
                signal.pause()
            return super().forward(images)


    class Growing(Tame):
        def forward(self, images):
            held = bytearray()
            while True:
                held += bytes(1 << 20)


    class Endless(Tame):
        def forward(self, images):
            BEGUN.touch()
            held = []
            while True:
                held.append(torch.empty(1000, 1000))
    """
)

# Those that end a process one after the other: in between, that process has answered others, and gets another chance.
ORDER = (
    *("Growing", "Endless", "Leaving"),
    *("Pair", "Interrupting", "Quitting", "Asking", "Meddling", "Straying", "Printing", "Threading", "Forking", "Tame"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unruly")


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Reply | str]:
    """What became of each network, traced one after the other by the estimator that jobs meet; reasons without file."""
    file = folder / "unruly.py"
    file.write_text(NETWORKS)
    limits = Limits(memory_bytes=256 << 20, trace_cpu_s=3)
    tracer = Tracer(CpuDevice(), folder / "cache", folder / "log", limits=limits)
    for key, name in enumerate(ORDER):
        job = spec(network=f"{file}:{name}")
        tracer.ask(key, replace(job, data=replace(job.data, augment="none")), prepare=False)
    became: dict[int, Reply | Failed] = {}

    def all_known() -> bool:
        became.update(tracer.poll(timeout_s=0.2))
        return not tracer.pending

    try:
        eventually(all_known, "all networks", deadline_s=200.0)
    finally:
        tracer.close()
    return {name: _without_file(became[key], file) for key, name in enumerate(ORDER)}


def _without_file(one: Reply | Failed, file: Path) -> Reply | str:
    return one.reason.replace(str(file), "unruly.py") if isinstance(one, Failed) else one


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("Growing", "unruly.py:Growing: tracing it took more than 256 MiB of memory"),
        ("Endless", "unruly.py:Endless: tracing it took more than 3 s of the CPU"),
        ("Pair", "unruly.py:Pair returned tuple, expected logits of shape (256, 10)"),
        ("Interrupting", "unruly.py:Interrupting: KeyboardInterrupt"),
        ("Quitting", "unruly.py:Quitting: SystemExit"),
        ("Leaving", "unruly.py:Leaving: tracing it ended its process with exit code 0"),
        ("Meddling", "unruly.py:Meddling returned NoneType, expected logits of shape (256, 10)"),
        ("Asking", "unruly.py:Asking: EOFError: EOF when reading a line"),
    ],
)
def test_an_unruly_network_fails_with_a_line_that_names_it(
    known: dict[str, Reply | str], network: str, reason: str
) -> None:
    assert known[network] == reason


@pytest.mark.parametrize("network", ["Printing", "Threading", "Forking"])
def test_a_network_with_odd_habits_is_estimated_like_any_other(known: dict[str, Reply | str], network: str) -> None:
    odd, tame = known[network], known["Tame"]
    assert isinstance(odd, Reply), odd
    assert isinstance(tame, Reply), tame
    assert odd.components["activations"] == tame.components["activations"]


def test_what_a_network_changes_in_its_process_is_gone_for_the_next(known: dict[str, Reply | str]) -> None:
    assert not [name for name in ("Printing", "Threading", "Forking", "Tame") if isinstance(known[name], str)]


@pytest.mark.usefixtures("known")
def test_what_a_network_has_started_in_a_session_of_its_own_ends_with_the_estimator(folder: Path) -> None:
    strays = [int(pid) for pid in (folder / "strays").read_text().split()]
    eventually(lambda: not any(map(psutil.pid_exists, strays)), "their end")


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def endless(gpuq: Gpuq) -> Path:
    """A job file whose network never comes back."""
    network = gpuq.write("unruly.py", NETWORKS)
    return gpuq.write("endless.toml", f'[model]\nname = "{network}:Endless"\n')


def test_ctrl_c_ends_the_process_that_traces_too(gpuq: Gpuq, endless: Path) -> None:
    estimate = gpuq.spawn("estimate", endless, "--device", "cpu")
    (tracing,) = eventually(psutil.Process(estimate.pid).children, "the process that traces")
    estimate.send_signal(signal.SIGINT)
    estimate.communicate(timeout=20)
    assert estimate.returncode == 130
    eventually(lambda: has_ended(tracing), "its end")


def test_a_kill_ends_the_process_that_traces_too(gpuq: Gpuq, endless: Path) -> None:
    estimate = gpuq.spawn("estimate", endless, "--device", "cpu")
    eventually((gpuq.folder / "begun").exists, "the network to be traced", deadline_s=200.0)
    (tracing,) = psutil.Process(estimate.pid).children()
    estimate.kill()
    estimate.communicate(timeout=20)
    eventually(lambda: has_ended(tracing), "its end")
