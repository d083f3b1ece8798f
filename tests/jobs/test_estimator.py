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
from jobs.spec import DataSpec, JobSpec, ModelSpec
from jobs.trace_messages import Reply, Request


def request(key: int, spec: JobSpec, cache_dir: Path, *, prepare: bool = False) -> Request:
    return Request(
        key=key, spec=spec, device="cpu", context_bytes=0, precision="fp32", cache_dir=str(cache_dir), prepare=prepare
    )


@pytest.fixture(scope="module")
def replies(user_file: Path, cache_dir: Path) -> list[Reply]:
    """What one process answered to these jobs, in turn."""
    jobs = [
        user_job(user_file, "printing"),
        user_job(user_file, "Raising", options={"error": "RuntimeError"}),
        user_job(user_file, "maps"),
        user_job(user_file, "unbuildable"),
        user_job(user_file, "nothing"),
        user_job(user_file, "peeking"),
        job("baseline-130k"),
    ]
    lines = b"".join(msgspec.json.encode(request(key, spec, cache_dir)) + b"\n" for key, spec in enumerate(jobs))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.estimator"],
        input=lines,
        capture_output=True,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert b"built" in done.stderr
    assert b"below Python" in done.stderr
    return [msgspec.json.decode(line, type=Reply) for line in done.stdout.splitlines()]


def test_there_is_a_reply_a_request_in_order_whatever_a_network_prints(replies: list[Reply]) -> None:
    assert [reply.key for reply in replies] == [0, 1, 2, 3, 4, 5, 6]


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
        (5, "cannot be traced: declare [resources] memory"),
    ],
    ids=["raises", "returns maps", "cannot be built", "is not there", "reads values"],
)
def test_a_network_that_cannot_be_traced_is_one_line(replies: list[Reply], number: int, words: str) -> None:
    error = replies[number].error
    assert error is not None
    assert words in error
    assert len(error.splitlines()) == 1
    assert replies[number].components == {}


def test_an_error_does_not_spoil_the_next_reply(replies: list[Reply]) -> None:
    assert replies[6].error is None
    assert sum(replies[6].components.values()) > 100 * 2**20  # torch alone is that much


def test_on_a_gpu_it_is_the_context_and_what_the_allocator_reserves(cache_dir: Path) -> None:
    on_gpu = msgspec.structs.replace(request(0, job("baseline-130k"), cache_dir), device="cuda", context_bytes=10**8)
    components = answer(on_gpu).components
    assert components["context"] == 10**8
    assert components["workspaces"] == 64 * 2**20
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
