"""Measuring a GPU's constants: a real process that says what a test has it say, and a stand-in for the GPU."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from builders import GiB, MiB
from gpu import Gpu
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.calibrate import Held, Message, Seen, Trouble
from jobs.trace_messages import Constants
from scheduler.calibration_process import LIMIT_S, STILL_BYTES, CalibrationProcess, Unknown, constants
from scheduler.device import Snapshot

HELD = Held(reserved_bytes=90 * MiB, workspace_bytes=64 * MiB)
SEEN = Seen(name="NVIDIA H200", torch="2.15.0", cudnn="92600")
PROCESS_BYTES = 590 * MiB
MEASURED = Constants(context_bytes=500 * MiB, workspace_bytes=64 * MiB)
WAIT = "import sys; sys.stdin.read()"
PID = 7


def read_off(*used_bytes: int, listed_bytes: int = 0, held: Held = HELD) -> Constants | Unknown:
    """What is made of these looks at a GPU, the second with our process."""
    gpu = Gpu(*used_bytes, listed_bytes=listed_bytes)
    return constants(held, PID, gpu.snapshot({}), gpu.snapshot({PID: 0}), gpu.snapshot({}))


# -- what is read off the device ------------------------------------------------------------------------------------


def test_the_context_is_what_nvml_lists_of_the_process_without_what_the_allocator_reserved() -> None:
    assert read_off(0, 5 * GiB, 3 * GiB, listed_bytes=PROCESS_BYTES) == MEASURED


@settings(deadline=None, max_examples=50, derandomize=True)
@given(others=st.integers(0, 7 * GiB), drift=st.integers(-STILL_BYTES, STILL_BYTES))
def test_where_nvml_lists_nothing_it_is_what_the_device_had_more_in_use(others: int, drift: int) -> None:
    others = max(others, STILL_BYTES)
    assert read_off(others, others + PROCESS_BYTES, others + drift) == MEASURED


def test_fewer_bytes_than_the_allocators_are_those_of_another_process() -> None:
    """In a container NVML lists the host's pids, and one of them may be ours by chance."""
    assert read_off(GiB, GiB + PROCESS_BYTES, GiB, listed_bytes=50 * MiB) == MEASURED


@pytest.mark.parametrize("after", [GiB + 2 * STILL_BYTES, GiB - 2 * STILL_BYTES])
def test_a_difference_tells_nothing_if_others_came_or_went(after: int) -> None:
    assert read_off(GiB, GiB + PROCESS_BYTES, after) == Unknown("what others use of the device changed meanwhile")


@pytest.mark.parametrize("process_bytes", [91 * MiB, 6 * GiB])
def test_a_context_that_cannot_be_is_none(process_bytes: int) -> None:
    assert isinstance(read_off(0, process_bytes, 0), Unknown)


# -- the process ----------------------------------------------------------------------------------------------------


class Started:
    """Starts measurements, each a script that runs in a real process."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        self.now = 0.0
        self.gpu: Gpu = Gpu(GiB, GiB + PROCESS_BYTES, GiB)
        self.processes: list[CalibrationProcess] = []

    def __call__(self, script: str) -> CalibrationProcess:
        command = [sys.executable, "-S", "-E", "-c", script]
        self.processes.append(CalibrationProcess(self.gpu, self.errors, lambda: self.now, command))
        return self.processes[-1]

    def outcome(self, script: str) -> Constants | Unknown:
        process = self(script)
        while (result := process.poll(timeout_s=10.0)) is None:
            pass
        return result


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path / "errors.log")
    yield made
    for process in made.processes:
        process.close()


def saying(*messages: Message, then: str = WAIT) -> str:
    lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages).decode()
    return f"print({lines!r}, end='', flush=True); {then}"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_it_holds_is_measured_while_it_holds_it(started: Started) -> None:
    assert started.outcome(saying(SEEN, HELD)) == MEASURED


def test_nothing_is_known_while_it_measures(started: Started) -> None:
    assert started(saying(SEEN)).poll() is None


class WatchingGpu(Gpu):
    """Notes at each look whether the process that measures is alive, once it knows it."""

    def __init__(self, *used_bytes: int) -> None:
        super().__init__(*used_bytes)
        self.pid: int | None = None
        self.alive: list[bool] = []

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        self.pid = next(iter(workers), self.pid)
        if self.pid is not None:
            self.alive.append(is_alive(self.pid))
        return super().snapshot(workers)


def test_the_device_is_read_while_it_lives_and_when_it_has_ended(started: Started) -> None:
    started.gpu = gpu = WatchingGpu(GiB, GiB + PROCESS_BYTES, GiB)
    started.outcome(saying(HELD))
    assert gpu.alive == [True, False]


def test_it_is_told_the_device_and_the_precision_and_sees_that_gpu_alone(started: Started) -> None:
    tell = "import os, sys; words = sys.argv[1:] + [os.environ['CUDA_VISIBLE_DEVICES']]; "
    script = f"""{tell} print('{{"type": "Trouble", "reason": "' + ' '.join(words) + '"}}', flush=True)"""
    assert started.outcome(script) == Unknown("cuda:0 bf16 3")


def test_its_trouble_is_the_reason(started: Started) -> None:
    trouble = Trouble(reason="OutOfMemoryError: CUDA out of memory")
    assert started.outcome(saying(SEEN, trouble, then="pass")) == Unknown(trouble.reason)


@pytest.mark.parametrize(
    ("ending", "how"),
    [("import os; os._exit(3)", "with exit code 3"), ("import os; os.kill(os.getpid(), 11)", "by SIGSEGV")],
)
def test_one_that_dies_has_measured_nothing(started: Started, ending: str, how: str) -> None:
    assert started.outcome(saying(SEEN, then=ending)) == Unknown(f"the process that measures ended {how}")


def test_one_that_says_anything_else_has_measured_nothing(started: Started) -> None:
    result = started.outcome(f"print('hello', flush=True); {WAIT}")
    assert result == Unknown("the process that measures wrote something that is no message")


def test_one_that_takes_too_long_has_measured_nothing(started: Started) -> None:
    process = started(WAIT)
    started.now = LIMIT_S + 1
    assert process.poll() == Unknown(f"measuring took more than {LIMIT_S:g} s")


def test_a_gpu_that_falls_silent_meanwhile_has_no_constants(started: Started) -> None:
    process = started(saying(HELD))
    started.gpu.error = "GPU 0 cannot be read: it is lost"
    while (result := process.poll(timeout_s=10.0)) is None:
        pass
    assert result == Unknown("GPU 0 cannot be read: it is lost")


def test_what_it_prints_is_kept(started: Started) -> None:
    started.outcome("import sys; print('a traceback', file=sys.stderr)")
    assert started.errors.read_text() == "a traceback\n"
