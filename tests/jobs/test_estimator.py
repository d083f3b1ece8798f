"""The process that traces jobs: a reply a line, whatever the networks do."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tiny import IMAGES, job, user_job

from augment.catalog import DATASETS
from jobs.estimator import answer, data_shape
from jobs.resident import worker_modules
from jobs.spec import DataSpec, JobSpec, ModelSpec
from jobs.trace_messages import Constants, Message, OutOfMemory, Reply, Request, Tracing

NETWORKS = """
import os
import torch
from torch import nn

def hoarding(classes, channels):
    made = nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, classes))
    made.hoard = bytearray(400 << 20)
    return made

def wide(classes, channels):
    '''Four terabytes of weights.'''
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, 1 << 28), nn.Linear(1 << 28, classes))

def forking(classes, channels):
    os.fork()
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, classes))

def compiled(classes, channels):
    return torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, classes)))
"""


TORCHVISION = job("torchvision:squeezenet1_1", {})


@pytest.fixture(scope="module")
def unruly_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("unruly") / "networks.py"
    file.write_text(NETWORKS)
    return file


def request(key: int, spec: JobSpec, cache_dir: Path, *, prepare: bool = False) -> Request:
    return Request(key=key, spec=spec, device="cpu", precision="fp32", cache_dir=str(cache_dir), prepare=prepare)


def estimator(requests: list[Request]) -> tuple["subprocess.CompletedProcess[bytes]", list[Message]]:
    """A process of its own, ended, and all that it said to some requests."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.estimator"],
        input=b"".join(msgspec.json.encode(one) + b"\n" for one in requests),
        capture_output=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    return done, [msgspec.json.decode(line, type=Message) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def said(user_file: Path, unruly_file: Path, cache_dir: Path) -> list[Message]:
    """What one process said to these jobs, in turn; the last two may take 256 MiB each."""
    jobs = [
        user_job(user_file, "printing"),
        user_job(user_file, "Raising", options={"error": "RuntimeError"}),
        user_job(user_file, "maps"),
        user_job(user_file, "unbuildable"),
        user_job(user_file, "nothing"),
        user_job(user_file, "peeking"),
        job("baseline-130k"),
        user_job(unruly_file, "forking"),
        TORCHVISION,
        user_job(unruly_file, "compiled"),
        user_job(user_file, "small"),
        user_job(unruly_file, "hoarding"),
    ]
    requests = [request(key, spec, cache_dir) for key, spec in enumerate(jobs)]
    limited = [msgspec.structs.replace(one, memory_limit_bytes=256 << 20) for one in requests[-2:]]
    done, messages = estimator([*requests[:-2], *limited])
    assert b"built" in done.stderr
    assert b"below Python" in done.stderr
    return messages


@pytest.fixture(scope="module")
def replies(said: list[Message]) -> list[Reply]:
    return [message for message in said if isinstance(message, Reply)]


def test_the_process_says_when_data_are_prepared_and_tracing_begins(said: list[Message]) -> None:
    kinds = [type(message) for message in said if message.key == 0]
    assert kinds == [Tracing, Reply]


def test_there_is_a_reply_a_request_in_order_whatever_a_network_does(replies: list[Reply]) -> None:
    assert [reply.key for reply in replies] == list(range(11))


def test_a_network_that_prints_is_estimated_like_any_other(replies: list[Reply]) -> None:
    assert replies[0].error is None
    assert replies[0].parameters > 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "RuntimeError: first line"),
        (2, "expected logits of shape"),
        (3, "no such thing"),
        (4, "defines no 'nothing'"),
        (5, "cannot be traced: a queued job is measured by a few steps alone on the device"),
        (9, "it is compiled by torch.compile, so it cannot be traced: a queued job is measured"),
    ],
    ids=["raises", "returns maps", "cannot be built", "is not there", "reads values", "compiled"],
)
def test_a_network_that_cannot_be_traced_is_one_line(replies: list[Reply], number: int, words: str) -> None:
    error = replies[number].error
    assert error is not None
    assert words in error
    assert len(error.splitlines()) == 1
    assert replies[number].components == {}


def test_networks_that_train_although_they_cannot_be_traced_are_known_as_such(replies: list[Reply]) -> None:
    assert [reply.key for reply in replies if reply.untraceable] == [5, 9]


def test_an_error_names_the_network(replies: list[Reply], user_file: Path) -> None:
    assert [str(user_file) in (reply.error or "") for reply in replies[1:6]] == [True] * 5


def test_data_that_cannot_be_prepared_are_not_the_fault_of_the_network(tmp_path: Path, cache_dir: Path) -> None:
    folder = msgspec.convert({"name": "imagefolder", "root": str(tmp_path / "nowhere")}, DataSpec)
    error = answer(request(0, JobSpec(name="a", model=ModelSpec(name="resv1"), data=folder), cache_dir)).error
    assert error is not None
    assert "nowhere" in error
    assert "resv1" not in error


def test_a_network_that_takes_more_memory_than_it_may_gets_no_reply(said: list[Message], replies: list[Reply]) -> None:
    assert replies[10].error is None  # one that takes less
    assert [type(message) for message in said if message.key == 11] == [Tracing, OutOfMemory]


def test_weights_of_a_traced_network_take_no_memory(unruly_file: Path, cache_dir: Path) -> None:
    wide = request(0, user_job(unruly_file, "wide"), cache_dir)
    reply = answer(msgspec.structs.replace(wide, memory_limit_bytes=1 << 30))
    assert reply.components["parameters"] > 4 * 3072 << 28


def test_an_error_does_not_spoil_the_next_reply(replies: list[Reply]) -> None:
    assert replies[6].error is None
    assert sum(replies[6].components.values()) > 100 * 2**20  # torch alone is that much


def test_on_a_gpu_it_is_the_context_and_what_the_allocator_reserves(cache_dir: Path) -> None:
    constants = Constants(context_bytes=10**8, workspace_bytes=32 * 2**20)
    on_gpu = msgspec.structs.replace(request(0, job("baseline-130k"), cache_dir), device="cuda", constants=constants)
    components = answer(on_gpu).components
    assert components["context"] == 10**8
    assert components["workspaces"] == 32 * 2**20
    assert (sum(components.values()) - 10**8) % 2**21 == 0  # whole segments


class TestDataShape:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "shapes"])
    def test_a_known_data_set_is_told_without_reading_it(self, name: str, tmp_path: Path) -> None:
        spec = JobSpec(
            name="a",
            model=ModelSpec(name="resv1"),
            data=msgspec.convert({"name": name, "root": str(tmp_path)}, DataSpec),
        )
        shape = data_shape(request(0, spec, tmp_path / "cache"))
        facts = DATASETS[name]
        assert shape.train + shape.validation + shape.test == facts.train_images
        assert (shape.input_shape, shape.classes) == ((3, 32, 32), facts.classes)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("split", [(0.5, 0.3, 0.2), "official"])
    def test_facts_and_files_tell_the_same(self, split: object, cache_dir: Path) -> None:
        data = msgspec.convert({"name": "shapes", "split": split, "limit": IMAGES}, DataSpec)
        spec = JobSpec(name="a", model=ModelSpec(name="resv1"), data=data)
        from_facts, from_files = (data_shape(request(0, spec, cache_dir, prepare=prepare)) for prepare in (False, True))
        assert from_facts == from_files


def test_an_estimate_does_not_depend_on_what_was_estimated_before(replies: list[Reply], cache_dir: Path) -> None:
    """Tracing imports parts of what torchvision needs, which its worker has to import all the same."""
    _, (_, alone) = estimator([request(0, TORCHVISION, cache_dir)])
    assert isinstance(alone, Reply)
    assert replies[8].components["process"] == pytest.approx(alone.components["process"], rel=0.03)


def test_torchvision_counts_too_where_a_users_file_imports_it(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text("from torchvision.models import squeezenet1_1 as net\n")
    assert worker_modules(user_job(file, "net")) == worker_modules(TORCHVISION)
    file.write_text("from torch import nn\n")
    assert "torchvision" not in worker_modules(user_job(file, "net"))
