"""The whole path with real processes: submitted, placed, trained, finished; failed, cancelled, killed, resumed."""

import json
import os
import signal
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gpuq_process import Gpuq, eventually

from jobs.run_dir import read_metrics
from scheduler.store import Store

TINY = """
[model]
name = "resv1"
width = 4
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
limit = {limit}
augment = "{augment}"
[train]
epochs = {epochs}
batch_size = 32
checkpoint_every = "1 epoch"
[schedule]
warmup_epochs = 1
"""

LOOKED_AT = """
[diagnostics]
gradient_flow = true
landscape = true
landscape_grid = 3
landscape_images = 10
"""

SECRET = "hunter2-aec31f"
SECRETS = dict.fromkeys(("MY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "SESSION_COOKIE"), SECRET)

TIME_AND_MEMORY = {"images_per_s", "elapsed_s", "peak_bytes"}

RAISES = """
import torch

class Raises(torch.nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.linear = torch.nn.Linear(channels, classes)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls > 4:  # as many as a trace makes
            raise RuntimeError("the network had enough")
        return self.linear(images.mean((2, 3)))

def build(classes, channels):
    return Raises(classes, channels)
"""


DECLARED = '[resources]\nmemory = "1 GiB"\n'  # nothing is to be traced first


def tiny(*, epochs: int = 2, limit: int = 400, augment: str = "none") -> str:
    return TINY.format(epochs=epochs, limit=limit, augment=augment)


@pytest.fixture(scope="module")
def evening(shared_gpuq: Gpuq) -> Gpuq:
    """Two jobs that train, one whose network raises, and one that is cancelled while it runs; all ended.

    There are secrets in the environment, and a umask that would have everybody read and write.
    """
    gpuq = shared_gpuq
    gpuq.environment |= SECRETS
    files = [
        gpuq.write("first.toml", tiny(epochs=12)),
        gpuq.write("second.toml", tiny(augment="easy") + LOOKED_AT),
        gpuq.write(
            "raises.toml", tiny(epochs=5).replace('"resv1"\nwidth = 4\nblocks = [1, 1, 1, 1]', '"net.py:build"')
        ),
        gpuq.write("endless.toml", "priority = -1\n" + tiny(epochs=5000)),
    ]
    gpuq.write("net.py", RAISES)
    usual = os.umask(0)
    submitted = gpuq("submit", *files, "--json")
    os.umask(usual)
    assert submitted.returncode == 0, submitted.stderr
    assert [job["id"] for job in json.loads(submitted.stdout)["jobs"]] == [1, 2, 3, 4]
    gpuq.becomes(4, "running")
    assert gpuq("cancel", "4").returncode == 0
    gpuq("wait", "1-4")
    return gpuq


def test_a_job_that_trains_succeeds_with_its_accuracies_and_its_peak(evening: Gpuq) -> None:
    job = evening.job(1)
    assert (job["state"], job["outcome"], job["epoch"]) == ("finished", "succeeded", 12)
    assert 0 <= job["best_validation_accuracy"] <= 1
    assert 0 <= job["test_accuracy"] <= 1
    assert job["estimate_basis"] == "modelled"
    assert 0 < job["peak_bytes"] <= job["reservation_bytes"]


def test_what_a_job_turned_out_not_to_need_was_given_back_and_it_kept_to_the_rest(evening: Gpuq) -> None:
    job = evening.job(1)
    [attempt] = job["attempts"]
    assert job["peak_bytes"] <= attempt["reservation_bytes"] < job["reservation_bytes"]


def test_two_jobs_train_at_once(evening: Gpuq) -> None:
    (first,), (second,) = evening.job(1)["attempts"], evening.job(4)["attempts"]
    latest_start = max(datetime.fromisoformat(attempt["started_at"]) for attempt in (first, second))
    earliest_end = min(datetime.fromisoformat(attempt["ended_at"]) for attempt in (first, second))
    assert latest_start < earliest_end


def test_a_job_whose_network_raises_fails_with_the_exception_and_is_tried_twice(evening: Gpuq) -> None:
    job = evening.job(3)
    assert job["outcome"] == "failed"
    assert job["reason"] == "RuntimeError: the network had enough (2 times at the same place)"
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["failed", "failed"]


def test_status_of_a_failed_job_shows_the_end_of_its_log(evening: Gpuq) -> None:
    shown = evening("status", "3").stdout
    assert "the log's last lines" in shown
    assert "RuntimeError: the network had enough" in shown


def test_a_cancelled_job_ends_as_cancelled_and_keeps_its_checkpoint(evening: Gpuq) -> None:
    job = evening.job(4)
    assert job["outcome"] == "cancelled"
    assert (Path(job["run_dir"]) / "checkpoints" / "last.pt").exists()


def test_wait_fails_because_not_all_succeeded(evening: Gpuq) -> None:
    assert evening("wait", "1-4").returncode == 1


def test_logs_prints_what_the_worker_printed(evening: Gpuq) -> None:
    assert "the network had enough" in evening("logs", "3").stdout


def test_every_folder_and_file_is_its_owners_alone_whatever_the_umask(evening: Gpuq) -> None:
    home = evening.home.path
    kept = {path: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.rglob("*"))}
    kinds = {"gpuq.db", "spec.json", "launch.json", "last.pt", "landscape.json", "log.txt", "manifest.json"}
    assert kinds <= {path.name for path in kept}
    assert {path: oct(mode) for path, mode in kept.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_no_secret_of_the_environment_is_recorded(evening: Gpuq) -> None:
    files = [path for path in evening.home.path.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.fixture(scope="module")
def repeated(evening: Gpuq) -> tuple[Gpuq, str]:
    """A job like one of the evening, run while a dispatcher was at its post, and what `gpuq run` said."""
    evening("start")
    dispatcher = evening.dispatcher()
    done = evening("run", evening.write("again.toml", tiny(epochs=1)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert evening.dispatcher() == dispatcher is not None
    return evening, done.stdout


def test_run_leaves_the_work_to_the_dispatcher_that_runs(repeated: tuple[Gpuq, str]) -> None:
    _, said = repeated
    assert "job 5 again succeeded" in said


def test_a_repeated_job_is_placed_by_what_its_like_used(repeated: tuple[Gpuq, str]) -> None:
    gpuq, _ = repeated
    job = gpuq.job(5)
    assert job["estimate_basis"] == "measured"
    like_it = (1, 4)  # the one that was cancelled needed the same, whatever it was to train for
    assert job["estimate_bytes"] == max(gpuq.job(job_id)["peak_bytes"] for job_id in like_it)


def test_run_hands_what_else_is_queued_to_a_dispatcher_in_the_background(gpuq: Gpuq) -> None:
    gpuq("submit", "--no-start", gpuq.write("endless.toml", tiny(epochs=5000) + DECLARED))
    done = gpuq("run", gpuq.write("job.toml", tiny(epochs=1) + DECLARED))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "other jobs go on in the background" in done.stderr
    eventually(lambda: gpuq.dispatcher() is not None, "a dispatcher runs in the background")
    assert gpuq.job(1)["state"] == "running"
    assert len(gpuq.job(1)["attempts"]) == 1


def test_ctrl_c_of_run_checkpoints_and_queues_again_and_run_goes_on_to_the_same_result(gpuq: Gpuq) -> None:
    job = gpuq.write("job.toml", tiny(epochs=6, limit=1500) + DECLARED)
    run = gpuq.spawn("run", job)
    eventually(lambda: len(metrics(gpuq, 1)) >= 2, "job 1 has trained two epochs")
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "queued again" in said
    assert gpuq.job(1)["state"] == "queued"

    run = gpuq.spawn("run")
    eventually(lambda: len(metrics(gpuq, 1)) >= 4, "job 1 has trained four epochs")
    run.kill()  # the dispatcher is gone, its jobs go on
    run.communicate()
    worker = Store(gpuq.home.store).live_attempts()[0].pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)

    finished = gpuq("run", job)  # and another one beside it, which nothing interrupts
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [len(gpuq.job(job_id)["attempts"]) for job_id in (1, 2)] == [3, 1]
    assert learning(gpuq, 1) == learning(gpuq, 2)


def metrics(gpuq: Gpuq, job_id: int) -> list[Any]:
    return read_metrics(gpuq.home.run_dir(job_id).metrics)


def learning(gpuq: Gpuq, job_id: int) -> list[dict[str, float]]:
    """A job's metrics, without those that tell of time and memory."""
    lines = [msgspec.structs.asdict(line) for line in metrics(gpuq, job_id)]
    return [{key: value for key, value in line.items() if key not in TIME_AND_MEMORY} for line in lines]
