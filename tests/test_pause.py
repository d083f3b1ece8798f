"""Pausing, resuming and the breaker as people and scripts meet them: commands, exit codes, words."""

import json

import pytest
from gpuq_process import Gpuq, eventually

from jobs.run_dir import read_metrics

FITS = '[model]\nname = "resv1"\n[resources]\nmemory = "1 GiB"\n'
NEVER_FITS = 'priority = 1\n[model]\nname = "resv1"\n[resources]\nmemory = "900 TiB"\n'
TINY = """
[model]
name = "resv1"
width = 4
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
limit = 400
[train]
epochs = 40
batch_size = 32
checkpoint_every = "1 epoch"
[resources]
memory = "1 GiB"
"""


def test_a_running_job_is_paused_at_its_checkpoint_and_goes_on_from_there(gpuq: Gpuq) -> None:
    gpuq("submit", "--device", "cpu", gpuq.write("a.toml", TINY))
    metrics = gpuq.home.run_dir(1).metrics
    eventually(lambda: len(read_metrics(metrics)) >= 2, "job 1 has trained two epochs")
    assert gpuq("pause", "1").stdout == "job 1 will be held after its checkpoint\n"
    gpuq.becomes(1, "queued")
    job = gpuq.job(1)
    assert (job["paused"], job["reason"]) == (True, "paused")
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["stopped"]
    trained = job["epoch"]

    assert gpuq("resume", "1").stdout.startswith("job 1 resumed\n")
    gpuq("wait", "1")
    job = gpuq.job(1)
    assert (job["outcome"], job["epoch"], len(job["attempts"])) == ("succeeded", 40, 2)
    assert trained >= 2
    assert [line.epoch for line in read_metrics(metrics)] == list(range(1, 41))  # none twice: it went on


def test_run_ends_when_only_paused_jobs_are_left_and_says_how_to_go_on(gpuq: Gpuq) -> None:
    gpuq("submit", "--no-start", gpuq.write("a.toml", FITS))
    assert gpuq("pause", "1").stdout == "job 1 paused\n"
    done = gpuq("run", "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr == "paused: 1; `gpuq resume 1` queues it again\n"
    assert gpuq.job(1)["state"] == "queued"


def test_a_job_submitted_to_a_paused_queue_waits_and_starts_no_dispatcher(gpuq: Gpuq) -> None:
    assert gpuq("pause", "--all").stdout == "the queue is paused; `gpuq resume --all` goes on\n"
    submitted = gpuq("submit", "--device", "cpu", gpuq.write("a.toml", FITS))
    assert submitted.stdout == "queued 1 job: 1\nthe queue is paused; `gpuq resume --all` goes on\n"
    told = json.loads(gpuq("status", "--json").stdout)
    assert (told["queue"], told["dispatcher"]["running"]) == ({"paused": True, "reason": None}, False)
    assert (told["jobs"][0]["paused"], told["jobs"][0]["reason"]) == (False, "the queue is paused")
    assert "queue: paused; `gpuq resume --all` goes on" in gpuq("status").stdout
    assert gpuq("resume", "--all", "--no-start").stdout == "the queue goes on\n"
    assert gpuq.job(1)["reason"] == "no dispatcher is running"


def test_resuming_starts_a_dispatcher_when_there_is_something_to_do(gpuq: Gpuq) -> None:
    gpuq("pause", "--all")
    gpuq("submit", gpuq.write("a.toml", NEVER_FITS))
    assert "dispatcher started" in gpuq("resume", "--all", "--device", "cpu").stdout
    assert gpuq("wait", "1").returncode == 1
    assert gpuq.job(1)["outcome"] == "failed"


def test_run_with_max_failures_starts_nothing_more_and_says_why(gpuq: Gpuq) -> None:
    bad, good = gpuq.write("bad.toml", NEVER_FITS), gpuq.write("good.toml", FITS)
    done = gpuq("run", "--device", "cpu", "--max-failures", "1", bad, good)
    assert done.returncode == 1
    why = "the queue is paused: 1 job has failed (--max-failures 1); `gpuq resume --all` goes on"
    assert done.stderr == f"{why}; held: 2\n"
    assert (gpuq.job(2)["state"], gpuq.job(2)["attempts"]) == ("queued", [])
    told = json.loads(gpuq("status", "--json").stdout)
    assert told["queue"] == {"paused": True, "reason": "1 job has failed (--max-failures 1)"}


def test_the_dispatcher_in_the_background_stands_as_many_failures_as_submit_says(gpuq: Gpuq) -> None:
    bad, good = gpuq.write("bad.toml", NEVER_FITS), gpuq.write("good.toml", FITS)
    gpuq("submit", "--device", "cpu", "--max-failures", "1", bad, good)
    eventually(lambda: gpuq.job(1)["outcome"] == "failed", "job 1 has failed")
    eventually(lambda: bool(json.loads(gpuq("status", "--json").stdout)["queue"]["paused"]), "the queue is paused")
    assert gpuq.job(2)["attempts"] == []


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "expected ids of jobs, or --all"), (("1", "--all"), "expected ids of jobs, or --all"), (("7",), "no job 7")],
)
def test_wrong_usage_changes_nothing(gpuq: Gpuq, verb: str, arguments: tuple[str, ...], words: str) -> None:
    done = gpuq(verb, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
