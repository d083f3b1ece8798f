"""Pausing, resuming and the breaker as people and scripts meet them: commands, exit codes, words."""

import json

from gpuq_process import Gpuq, eventually

FITS = '[model]\nname = "resv1"\n[resources]\nmemory = "1 GiB"\n'
NEVER_FITS = 'priority = 1\n[model]\nname = "resv1"\n[resources]\nmemory = "900 TiB"\n'


def test_run_ends_when_only_paused_jobs_are_left_and_says_how_to_go_on(gpuq: Gpuq) -> None:
    gpuq.here("submit", "--no-start", gpuq.write("a.toml", FITS))
    assert gpuq.here("pause", "1").stdout == "job 1 paused\n"
    done = gpuq("run", "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr == "paused: 1; `gpuq resume 1` queues it again\n"
    assert gpuq.job(1)["state"] == "queued"


def test_a_job_submitted_to_a_paused_queue_waits_and_starts_no_dispatcher(gpuq: Gpuq) -> None:
    assert gpuq.here("pause", "--all").stdout == "the queue is paused; `gpuq resume --all` goes on\n"
    submitted = gpuq("submit", "--device", "cpu", gpuq.write("a.toml", FITS))
    assert submitted.stdout == "queued 1 job: 1\nthe queue is paused; `gpuq resume --all` goes on\n"
    told = json.loads(gpuq.here("status", "--json").stdout)
    assert (told["queue"], told["dispatcher"]["running"]) == ({"paused": True, "reason": None}, False)
    assert (told["jobs"][0]["paused"], told["jobs"][0]["reason"]) == (False, "the queue is paused")
    assert "queue: paused; `gpuq resume --all` goes on" in gpuq.here("status").stdout
    assert gpuq.here("resume", "--all", "--no-start").stdout == "the queue goes on\n"
    assert gpuq.job(1)["reason"] == "no dispatcher is running"


def test_resuming_starts_a_dispatcher_when_there_is_something_to_do(gpuq: Gpuq) -> None:
    gpuq.here("pause", "--all")
    gpuq("submit", gpuq.write("a.toml", NEVER_FITS))
    assert "dispatcher started" in gpuq("resume", "--all", "--device", "cpu").stdout
    assert gpuq.here("wait", "1").returncode == 1
    assert gpuq.job(1)["outcome"] == "failed"


def test_run_with_max_failures_starts_nothing_more_and_says_why(gpuq: Gpuq) -> None:
    bad, good = gpuq.write("bad.toml", NEVER_FITS), gpuq.write("good.toml", FITS)
    done = gpuq("run", "--device", "cpu", "--max-failures", "1", bad, good)
    assert done.returncode == 1
    why = "the queue is paused: 1 job has failed (--max-failures 1); `gpuq resume --all` goes on"
    assert done.stderr == f"{why}; held: 2\n"
    assert (gpuq.job(2)["state"], gpuq.job(2)["attempts"]) == ("queued", [])
    told = json.loads(gpuq.here("status", "--json").stdout)
    assert told["queue"] == {"paused": True, "reason": "1 job has failed (--max-failures 1)"}


def test_the_dispatcher_in_the_background_stands_as_many_failures_as_submit_says(gpuq: Gpuq) -> None:
    bad, good = gpuq.write("bad.toml", NEVER_FITS), gpuq.write("good.toml", FITS)
    gpuq("submit", "--device", "cpu", "--max-failures", "1", bad, good)
    eventually(lambda: gpuq.job(1)["outcome"] == "failed", "job 1 has failed")
    eventually(lambda: bool(json.loads(gpuq.here("status", "--json").stdout)["queue"]["paused"]), "the queue is paused")
    assert gpuq.job(2)["attempts"] == []
