"""The command line as people and scripts meet it: exit codes, one line per error, JSON alone on stdout."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpuq_process import Gpuq, GpuqHere

RESV1 = '[model]\nname = "resv1"\n'
LARGE = '[model]\nname = "baseline-130k"\n[data]\nname = "shapes"\n[train]\nbatch_size = 4000\n'
ONE_GIB = ("--device", "cpu", "--memory", "1 GiB")
Estimated = tuple[Gpuq, list[dict[str, Any]]]


@pytest.fixture
def gpuq(tmp_path: Path) -> Iterator[Gpuq]:
    made = GpuqHere(tmp_path)
    yield made
    made.clean_up()


def test_submit_prints_the_ids_it_queued(gpuq: Gpuq) -> None:
    files = [gpuq.write(f"{number}.toml", RESV1) for number in range(3)]
    done = gpuq("submit", "--no-start", *files)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "queued 3 jobs: 1-3"


def test_submit_quiet_prints_ids_alone(gpuq: Gpuq) -> None:
    file = gpuq.write("a.toml", RESV1 + '[matrix]\n"train.seed" = [1, 2]\n')
    assert gpuq("submit", "--no-start", "--quiet", file).stdout == "1\n2\n"


def test_submit_json_is_json_alone(gpuq: Gpuq) -> None:
    file = gpuq.write("a.toml", RESV1)
    told = json.loads(gpuq("submit", "--no-start", "--json", file).stdout)
    assert told["jobs"] == [{"id": 1, "name": "a"}]
    assert told["dispatcher_started"] is False


def test_one_bad_file_keeps_all_files_from_being_queued(gpuq: Gpuq) -> None:
    good, bad = gpuq.write("good.toml", RESV1), gpuq.write("bad.toml", RESV1 + "[train]\nepoch = 3\nseed = -1\n")
    done = gpuq("submit", "--no-start", good, bad)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f'gpuq: {bad}: train.epoch: unknown key; did you mean "epochs"?',
        f"gpuq: {bad}: train.seed: expected int >= 0, got -1",
    ]
    assert json.loads(gpuq("status", "--json").stdout)["jobs"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("cancel", "7"), 2, "no job 7"),
        (("retry", "7"), 2, "no job 7"),
        (("wait", "7"), 2, "no job 7"),
        (("logs", "7"), 2, "no job 7"),
        (("status", "7"), 2, "no job 7"),
        (("status", "seven"), 2, "'seven' is not a job's id"),
        (("logs", "9" * 20), 2, "is not a job's id, such as 7"),
        (("logs", "7-9"), 2, "'7-9' is not a job's id, such as 7"),
        (("submit",), 2, "Missing argument"),
        (("submit", "nowhere.toml"), 2, "nowhere.toml: cannot be read: No such file or directory"),
        (("estimate", "nowhere.toml"), 2, "nowhere.toml: cannot be read: No such file or directory"),
        (("estimate",), 2, "expected job files, or --check and a job's id"),
        (("estimate", "--check", "7"), 2, "no job 7"),
        (("estimate", "--check", "9" * 20), 2, "is not a job's id, such as 7"),
        (("run", "nowhere.toml"), 2, "nowhere.toml: cannot be read: No such file or directory"),
        (("status", "--device", "tpu"), 2, "expected auto, cpu, cuda or cuda:INDEX, got 'tpu'"),
        (("status", "--memory", "6 apples"), 2, "expected a size such as"),
        (("pause",), 2, "expected ids of jobs, or --all"),
        (("pause", "1", "--all"), 2, "expected ids of jobs, or --all"),
        (("pause", "7"), 2, "no job 7"),
        (("resume",), 2, "expected ids of jobs, or --all"),
        (("resume", "1", "--all"), 2, "expected ids of jobs, or --all"),
        (("resume", "7"), 2, "no job 7"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(gpuq: Gpuq, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = gpuq(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_is_not_one_is_refused_and_left_alone(gpuq: Gpuq) -> None:
    gpuq.home.create()
    gpuq.home.store.write_bytes(b"not a database" * 100)
    done = gpuq("status")
    assert done.returncode == 1
    assert str(gpuq.home.store) in done.stderr
    assert "Traceback" not in done.stderr
    assert gpuq.home.store.read_bytes() == b"not a database" * 100
    gpuq.home.store.unlink()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "gpu"), "--device: expected auto, cpu, cuda or cuda:INDEX, got 'gpu'"),
        (("--device", "cuda", "--memory", "6 GiB"), "--memory: sets the budget of the CPU device"),
    ],
)
@pytest.mark.parametrize("command", [("submit", "b.toml"), ("retry", "1"), ("resume", "--all"), ("start",)], ids=str)
def test_a_device_that_no_dispatcher_can_use_is_refused_before_anything_is_done(
    gpuq: Gpuq, command: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    gpuq("submit", "--no-start", gpuq.write("a.toml", RESV1))
    gpuq("cancel", "1")
    gpuq("pause", "--all")
    gpuq.write("b.toml", RESV1)
    done = gpuq(*command, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    told = json.loads(gpuq("status", "--json").stdout)
    assert [(job["id"], job["outcome"]) for job in told["jobs"]] == [(1, "cancelled")]
    assert told["queue"]["paused"]
    assert not gpuq.home.dispatcher_log.exists()


def test_status_of_nothing_says_how_to_begin(gpuq: Gpuq) -> None:
    assert "no jobs; `gpuq submit FILE.toml` queues some" in gpuq("status").stdout


def test_a_queued_job_waits_because_no_dispatcher_runs(gpuq: Gpuq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.requests.PATIENCE_S", 0.1)
    gpuq("submit", "--no-start", gpuq.write("a.toml", RESV1))
    assert gpuq.job(1)["reason"] == "no dispatcher is running"
    waited = gpuq("wait", "1")
    assert waited.returncode == 1
    assert "`gpuq start` starts it" in waited.stderr


def test_wait_right_after_submit_waits_for_the_dispatcher_to_take_up_its_post(gpuq: Gpuq) -> None:
    apart = Gpuq(gpuq.folder)  # in processes of their own, as whoever starts a dispatcher leaves it behind
    apart("submit", "--device", "cpu", apart.write("a.toml", RESV1 + '[resources]\nmemory = "900 TiB"\n'))
    waited = apart("wait", "1")
    assert (waited.returncode, waited.stderr) == (1, "")
    assert "the device has" in gpuq.job(1)["reason"]


def test_cancel_of_a_queued_job_ends_it_at_once(gpuq: Gpuq) -> None:
    gpuq("submit", "--no-start", gpuq.write("a.toml", RESV1))
    assert gpuq("cancel", "1").stdout == "job 1 cancelled\n"
    assert (gpuq.job(1)["state"], gpuq.job(1)["outcome"]) == ("finished", "cancelled")
    assert gpuq("cancel", "1").stdout == "job 1 had ended already (cancelled)\n"


def test_retry_queues_a_cancelled_job_again(gpuq: Gpuq) -> None:
    gpuq("submit", "--no-start", gpuq.write("a.toml", RESV1))
    gpuq("cancel", "1")
    assert gpuq("retry", "--no-start", "1").stdout == "queued again: 1\n"
    assert gpuq.job(1)["state"] == "queued"
    refused = gpuq("retry", "--no-start", "1")
    assert refused.returncode == 1
    assert "job 1 has not ended" in refused.stderr


def test_stop_without_a_dispatcher_says_so(gpuq: Gpuq) -> None:
    assert gpuq("stop").stdout == "no dispatcher is running\n"


def test_models_lists_every_network_with_its_size(gpuq: Gpuq) -> None:
    listed = {model["name"]: model for model in json.loads(gpuq("models", "--json").stdout)["models"]}
    assert len(listed) == 31
    assert listed["bn4"] == {
        "name": "bn4",
        "family": "bottleneck",
        "input_shape": [3, 32, 32],
        "classes": 10,
        "parameters": 1_035_914,
        "block_macs": 10_027_008,
        "options": {"width": 32, "blocks": [3, 3, 6, 6], "factor": 4},
        "summary": "bottlenecks, N=4",
    }
    mlp = listed["mlp"]
    assert (mlp["input_shape"], mlp["classes"], mlp["parameters"]) == ([2], 2, 60 + 7 * 420 + 42)


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Estimated:
    """What `gpuq estimate` says of a job with a declared figure, of one too large for the device, and of no network."""
    gpuq = GpuqHere(tmp_path_factory.mktemp("estimated"))
    gpuq.write("net.py", "def build(classes, channels):\n    raise ValueError('no such luck')\n")
    files = [
        gpuq.write("declared.toml", RESV1 + '[resources]\nmemory = "2 GiB"\n[data]\nname = "shapes"\n'),
        gpuq.write("large.toml", LARGE),
        gpuq.write("unbuildable.toml", '[model]\nname = "net.py:build"\n'),
    ]
    done = gpuq("estimate", "--json", *files, *ONE_GIB)
    assert done.returncode == 1  # because of the last
    return gpuq, json.loads(done.stdout)["estimates"]


def test_estimate_tells_bytes_basis_and_where_they_go(estimated: Estimated) -> None:
    gpuq, (declared, traced, _) = estimated
    assert (declared["basis"], declared["reservation_bytes"]) == ("declared", 2 << 30)
    assert (traced["file"], traced["name"], traced["basis"]) == (str(gpuq.folder / "large.toml"), "large", "modelled")
    assert sum(traced["components"].values()) == traced["estimate_bytes"] < traced["reservation_bytes"]


def test_estimate_tells_the_largest_batch_that_would_fit(estimated: Estimated) -> None:
    gpuq, (_, told, _) = estimated
    assert told["reservation_bytes"] > 1 << 30
    fitting = gpuq.write("fitting.toml", LARGE.replace("4000", str(told["largest_batch_size"])))
    [told] = json.loads(gpuq("estimate", "--json", fitting, *ONE_GIB).stdout)["estimates"]
    assert told["reservation_bytes"] <= 1 << 30


def test_a_network_that_cannot_be_built_is_told_with_its_error_beside_the_estimates_of_others(
    estimated: Estimated,
) -> None:
    gpuq, (*_, unbuildable) = estimated
    assert unbuildable["error"] == f"{gpuq.folder / 'net.py'}:build: ValueError: no such luck"
    assert unbuildable["estimate_bytes"] is None


def test_estimate_checks_a_job_that_has_run_only(gpuq: Gpuq) -> None:
    gpuq("submit", "--no-start", gpuq.write("a.toml", RESV1))
    done = gpuq("estimate", "--check", "1")
    assert done.returncode == 1
    assert done.stderr == "gpuq: job 1 a has not run yet: there is nothing to compare its estimate with\n"


@pytest.mark.parametrize("command", ["status", "submit"])
def test_the_commands_people_type_import_neither_torch_nor_numpy(gpuq: Gpuq, command: str) -> None:
    arguments = ["submit", "--no-start", str(gpuq.write("a.toml", RESV1))] if command == "submit" else ["status"]
    script = (
        "import sys\nfrom scheduler.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'numpy', 'kornia', 'sqlite_utils'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=gpuq.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
