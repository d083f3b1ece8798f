"""The worker process: how training ends is how it exits, and its files say why."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tiny import STEPS, identical, job, launch, learned, saved, train, user_job

from augment.datasets import load
from jobs import worker
from jobs.data import data_request
from jobs.errors import GpuqError
from jobs.memory import parts
from jobs.run_dir import ExitCode, Failure, Peak, Progress, Result, RunDir, read_record, write_record
from jobs.spec import Adam, DataSpec, JobSpec, ModelSpec
from jobs.worker import run_attempt

DEADLINE_S = 60.0

# Runs a command and says its exit code and its peak in KiB. Small itself: what a process's parent holds when it starts
# it counts as the process's own (getrusage), so that this one's, torch included, would hide any worker's.
WAIT = """
import os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


@pytest.fixture
def prepared(tmp_path: Path, cache_dir: Path) -> Callable[[JobSpec], RunDir]:
    """A run directory with everything that the dispatcher puts there before it starts an attempt."""

    def prepare(spec: JobSpec) -> RunDir:
        files = RunDir(tmp_path / "run")
        files.create(spec)
        write_record(files.attempt(1).launch, launch(cache_dir))
        return files

    return prepare


def command(files: RunDir) -> list[str]:
    return [sys.executable, "-P", "-m", "jobs.worker", str(files.path), "1"]


def exit_code(files: RunDir) -> int:
    """Of a worker in a process of its own."""
    return subprocess.run(command(files), cwd=files.path, timeout=DEADLINE_S, check=False).returncode


def attempt_here(files: RunDir, cache_dir: Path) -> int:
    """The exit code of an attempt in this process."""
    return run_attempt(files.read_spec(), files, files.attempt(1), launch(cache_dir), lambda: False)


def failure(files: RunDir) -> Failure:
    record = read_record(files.attempt(1).failure, Failure)
    assert record is not None
    return record


def job_without_data(tmp_path: Path) -> JobSpec:
    data = DataSpec(name="imagefolder", root=str(tmp_path / "nowhere"))
    return JobSpec(name="lost", model=ModelSpec(name="resv1"), data=data)


class TestProcess:
    def test_stopped_by_a_signal_it_goes_on_to_the_end_of_an_uninterrupted_run(
        self, tmp_path: Path, cache_dir: Path, user_file: Path, prepared: Callable[[JobSpec], RunDir]
    ) -> None:
        options = {"step": STEPS + 2, "marker": str(tmp_path / "asked")}
        files = prepared(user_job(user_file, "Interrupted", options=options, optimizer=Adam()))
        assert exit_code(files) == ExitCode.STOPPED
        assert saved(files.last_checkpoint)["position"]["step"] == STEPS + 2  # the step at hand was finished
        assert not files.result.exists()
        assert attempt_here(files, cache_dir) == ExitCode.SUCCEEDED
        reference = RunDir(tmp_path / "reference")  # the marker is there: this one is not asked
        assert read_record(files.result, Result) == train(files.read_spec(), reference.path, cache_dir)
        assert learned(files) == learned(reference)
        assert identical(saved(files.last_checkpoint), saved(reference.last_checkpoint))
        peak = read_record(files.attempt(1).peak, Peak)
        assert peak is not None
        assert peak.peak_bytes > 100 * 2**20  # torch alone is that much

    def test_it_ends_with_its_training_whatever_a_network_has_left_running_and_what_was_printed_is_kept(
        self, user_file: Path, prepared: Callable[[JobSpec], RunDir]
    ) -> None:
        files = prepared(user_job(user_file, "lingering", epochs=1))
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        ended = subprocess.run(command(files), stdout=subprocess.PIPE, env=buffered, timeout=DEADLINE_S, check=True)
        assert ended.stdout.count(b"a thread waits") == ended.stdout.count(b"a library prints") == 1

    def test_it_succeeds_even_if_a_network_has_closed_or_replaced_its_streams(self) -> None:
        script = "import sys; from jobs.worker import leave; sys.stdout = None; sys.stderr.close(); leave(0)"
        assert subprocess.run([sys.executable, "-c", script], timeout=DEADLINE_S, check=False).returncode == 0

    def test_it_takes_no_more_memory_than_it_says_at_its_end(
        self, user_file: Path, cache_dir: Path, prepared: Callable[[JobSpec], RunDir]
    ) -> None:
        spec = user_job(user_file, "small", epochs=1)
        load(data_request(spec), cache_dir)  # as the estimator does: drawing them here would be the peak
        files = prepared(spec)
        waited = subprocess.run([sys.executable, "-c", WAIT, *command(files)], stdout=subprocess.PIPE, check=True)
        code, peak_kib = map(int, waited.stdout.split()[-2:])
        said = read_record(files.attempt(1).peak, Peak)
        assert said is not None
        assert (code, peak_kib * 1024) == (ExitCode.SUCCEEDED, pytest.approx(said.peak_bytes, abs=2**20))

    def test_it_dies_with_its_parent(self, user_file: Path, prepared: Callable[[JobSpec], RunDir]) -> None:
        files = prepared(user_job(user_file, "printing", epochs=10**6, checkpoint_every="1h"))
        parent = subprocess.Popen(["sh", "-c", '"$@" & echo $!; wait', "sh", *command(files)], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert b"forward\n" in parent.stdout  # it trains
        parent.kill()
        try:
            parent.communicate(timeout=DEADLINE_S)  # until nobody holds the pipe
        except subprocess.TimeoutExpired:
            os.kill(number, signal.SIGKILL)
            raise


# The network's function, its options, the exit code, and what the failure says.
ENDS = {
    "success": ("small", {}, ExitCode.SUCCEEDED, None),
    "an error in the network": ("Raising", {"error": "RuntimeError"}, ExitCode.FAILED, "RuntimeError: first line"),
    "sys.exit(0) in the network": ("Raising", {"error": "SystemExit"}, ExitCode.FAILED, "SystemExit: 0"),
    "an interrupt that nobody sent": (
        "Raising",
        {"error": "KeyboardInterrupt"},
        ExitCode.FAILED,
        "KeyboardInterrupt: mine",
    ),
    "an error of the device": (
        "Raising",
        {"error": "device"},
        ExitCode.FAILED,
        "RuntimeError: CUDA error: unknown error",
    ),
    "no memory on a GPU": (
        "Raising",
        {"error": "OutOfMemoryError"},
        ExitCode.OUT_OF_MEMORY,
        "OutOfMemoryError: CUDA out of memory",
    ),
    "no memory for Python": ("Raising", {"error": "MemoryError"}, ExitCode.OUT_OF_MEMORY, "MemoryError"),
    "no memory for a tensor": ("Raising", {"error": "allocator"}, ExitCode.OUT_OF_MEMORY, "can't allocate memory"),
    "a network that cannot be built": ("unbuildable", {}, ExitCode.REFUSED, "no such thing"),
    "a network that is not there": ("nothing", {}, ExitCode.REFUSED, "defines no 'nothing'"),
    "a loss that is no number": ("Diverging", {"step": 2}, ExitCode.REFUSED, "step 1 (epoch 1)"),
}


class TestEnds:
    @pytest.mark.parametrize(("function", "options", "code", "words"), ENDS.values(), ids=ENDS)
    def test_each_has_its_exit_code_and_its_reason_in_one_line(
        self,
        user_file: Path,
        cache_dir: Path,
        prepared: Callable[[JobSpec], RunDir],
        function: str,
        options: dict[str, Any],
        code: ExitCode,
        words: str | None,
    ) -> None:
        files = prepared(user_job(user_file, function, options=options, epochs=1))
        attempt = files.attempt(1)
        assert attempt_here(files, cache_dir) == code
        assert files.result.exists() == (code == ExitCode.SUCCEEDED)
        assert read_record(attempt.peak, Peak) is not None
        said = read_record(attempt.failure, Failure)
        if words is None:
            assert said is None
        else:
            assert said is not None
            assert words in said.message
            assert len(said.message.splitlines()) == 1
            assert said.of_device == (options == {"error": "device"})

    def test_data_that_are_missing_are_refused_by_name(
        self, tmp_path: Path, cache_dir: Path, prepared: Callable[[JobSpec], RunDir]
    ) -> None:
        files = prepared(job_without_data(tmp_path))
        assert attempt_here(files, cache_dir) == ExitCode.REFUSED
        assert failure(files).kind == "ImageFolderError"
        assert str(tmp_path / "nowhere") in failure(files).message

    def test_the_peak_comes_with_what_the_process_held_on_the_way(
        self, user_file: Path, cache_dir: Path, prepared: Callable[[JobSpec], RunDir]
    ) -> None:
        files = prepared(user_job(user_file, "small", epochs=1))
        attempt_here(files, cache_dir)
        peak = read_record(files.attempt(1).peak, Peak)
        assert peak is not None
        assert peak.imported_bytes is not None
        assert peak.loaded_bytes is not None
        assert 0 < peak.imported_bytes <= peak.loaded_bytes <= peak.peak_bytes
        assert (peak.allocated_bytes, peak.reserved_bytes) == (None, None)

    def test_on_a_gpu_it_comes_with_what_the_allocator_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 8)
        assert parts(torch.device("cuda"), 1, 2) == {"context_bytes": None, "allocated_bytes": 5, "reserved_bytes": 8}

    def test_an_error_leaves_the_traceback_in_the_log_and_the_checkpoint_on_the_disk(
        self,
        user_file: Path,
        cache_dir: Path,
        prepared: Callable[[JobSpec], RunDir],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        options = {"error": "RuntimeError", "step": 2 * STEPS + 1}
        files = prepared(user_job(user_file, "Raising", options=options, checkpoint_every="0s"))
        assert attempt_here(files, cache_dir) == ExitCode.FAILED
        assert "second line" in capfd.readouterr().err
        assert saved(files.last_checkpoint)["position"]["step"] == 2 * STEPS
        assert read_record(files.attempt(1).progress, Progress) is not None

    def test_without_a_launch_record_nothing_is_trained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "die_with_parent", lambda _: None)
        monkeypatch.setattr(worker, "StopFlag", lambda: lambda: False)  # the tests' own process stays as it is
        RunDir(tmp_path).create(job())
        with pytest.raises(GpuqError, match=r"launch\.json: missing"):
            worker.main(str(tmp_path), "1")


@pytest.mark.parametrize("gives_back", [True, False])
def test_a_worker_gives_back_what_it_does_not_need_if_it_may(
    cache_dir: Path, prepared: Callable[[JobSpec], RunDir], gives_back: bool
) -> None:
    files = prepared(job())
    attempt, started = files.attempt(1), launch(cache_dir)
    started = msgspec.structs.replace(started, reservation_bytes=1 << 50, gives_back=gives_back)
    assert run_attempt(files.read_spec(), files, attempt, started, lambda: False) == ExitCode.SUCCEEDED
    progress, peak = read_record(attempt.progress, Progress), read_record(attempt.peak, Peak)
    assert progress is not None
    assert peak is not None
    assert (progress.left_of(1 << 50) < 2 * peak.peak_bytes) == gives_back


def test_a_probe_stops_once_training_has_held_the_most_and_keeps_what_it_learned(
    cache_dir: Path, prepared: Callable[[JobSpec], RunDir], user_file: Path
) -> None:
    """Chunks of two batches: the second chunk, and two steps. The job then goes on from there."""
    files = prepared(user_job(user_file, "Counting"))
    attempt = files.attempt(1)
    probing = msgspec.structs.replace(launch(cache_dir), probe=True)
    assert run_attempt(files.read_spec(), files, attempt, probing, lambda: False) == ExitCode.STOPPED
    assert saved(files.last_checkpoint)["position"]["step"] == 4
    assert attempt_here(files, cache_dir) == ExitCode.SUCCEEDED
    result = read_record(files.result, Result)
    assert result is not None
    assert result.steps == 3 * STEPS
