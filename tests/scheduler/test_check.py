"""What `gpuq estimate --check` compares."""

from typing import Any

import pytest
from builders import GiB, MiB, attempt, launch
from steps import Queue

from jobs.errors import GpuqError
from jobs.estimator import CPU_TRAINING_BYTES, LOADING_BYTES
from jobs.run_dir import Peak, write_record
from scheduler.check import Check, check_job, compared, conclusion, show, telling
from scheduler.errors import UnknownJobError
from scheduler.estimate import Basis, modelled
from scheduler.home import Home
from scheduler.states import Outcome

CPU = {"process": CPU_TRAINING_BYTES + 500 * MiB, "parameters": 5 * MiB, "data": 20 * MiB, "activations": 100 * MiB}
CUDA = {"context": 600 * MiB, "activations": GiB, "workspaces": 64 * MiB, "allocator slack": 30 * MiB}


@pytest.fixture
def job_id(queue: Queue) -> int:
    """A job that was traced, and runs."""
    running = queue.running()
    queue.store.set_estimate(running, modelled(CPU, 1000))
    return running


def parts(
    queue: Queue, job_id: int, peak: Peak, components: dict[str, int] | None = None, **columns: Any
) -> dict[str, Any]:
    """Each part's estimated and used MiB."""
    queue.store.set_estimate(job_id, modelled(CPU if components is None else components, 1000))
    found = compared(queue.store.job(job_id), attempt(peak_bytes=peak.peak_bytes, **columns), peak)
    return {part.name: (_in_mib(part.estimate_bytes), _in_mib(part.used_bytes)) for part in found.parts}


def _in_mib(count: int | None) -> float | None:
    return None if count is None else count / MiB


def test_a_job_that_never_ran_has_nothing_to_compare(home: Home, queue: Queue) -> None:
    with pytest.raises(GpuqError, match=r"^job 1 job has not run yet: there is nothing to compare its estimate with$"):
        check_job(home, queue.submitted())


def test_a_job_that_is_none_is_refused(home: Home) -> None:
    with pytest.raises(UnknownJobError):
        check_job(home, 7)


def test_the_attempts_own_estimate_is_compared_with_what_it_used(home: Home, queue: Queue, job_id: int) -> None:
    queue.end(job_id, Outcome.SUCCEEDED, peak=500 * MiB, shows_peak=True)
    write_record(home.run_dir(job_id).attempt(1).peak, Peak(peak_bytes=500 * MiB))
    found = check_job(home, job_id)
    assert (found.attempt, found.outcome, found.basis) == (1, "succeeded", "modelled")
    assert (found.estimate_bytes, found.used_bytes, found.reservation_bytes) == (400 * MiB, 500 * MiB, 512 * MiB)
    assert found.error == pytest.approx(-0.2)
    assert [part.name for part in found.parts] == ["imports", "data and network", "training"]


def test_the_reservation_is_the_one_it_was_placed_with_whatever_was_given_back(
    home: Home, queue: Queue, job_id: int
) -> None:
    write_record(home.run_dir(job_id).attempt(1).launch, launch())
    queue.store.lower_reservation(job_id, 1, 300 * MiB)
    queue.end(job_id, Outcome.SUCCEEDED, peak=290 * MiB, shows_peak=True)
    found = check_job(home, job_id)
    assert (found.reservation_bytes, found.left_bytes) == (GiB, 300 * MiB)


def test_nothing_was_estimated_of_a_job_that_was_to_show_its_peak(queue: Queue, job_id: int) -> None:
    found = compared(queue.store.job(job_id), attempt(peak_bytes=MiB, basis=Basis.PROBED, predicted_bytes=0), None)
    assert (found.estimate_bytes, found.error, found.used_bytes) == (None, None, MiB)


def test_a_worker_that_was_killed_has_told_no_parts(home: Home, queue: Queue, job_id: int) -> None:
    queue.end(job_id, Outcome.OUT_OF_MEMORY, peak=512 * MiB)
    assert check_job(home, job_id).parts == []


def test_the_last_attempt_that_went_through_all_of_the_training_tells() -> None:
    whole = attempt(Outcome.SUCCEEDED, number=2, peak_bytes=MiB, shows_peak=True)
    attempts = [attempt(number=1, peak_bytes=MiB), whole, attempt(number=3, peak_bytes=MiB), attempt(number=4)]
    assert telling(attempts) == whole


def test_where_none_did_the_last_with_a_peak_tells() -> None:
    attempts = [attempt(number=1, peak_bytes=MiB), attempt(number=2, peak_bytes=MiB), attempt(number=3)]
    assert telling(attempts) == attempts[1]


def test_on_the_cpu_parts_are_told_apart_by_when_they_came(queue: Queue, job_id: int) -> None:
    peak = Peak(peak_bytes=730 * MiB, imported_bytes=490 * MiB, loaded_bytes=540 * MiB)
    training = 100 + (CPU_TRAINING_BYTES - LOADING_BYTES) / MiB
    assert parts(queue, job_id, peak) == {
        "imports": (500, 490),
        "data and network": (25 + LOADING_BYTES / MiB, 50),
        "training": (training, 190),
    }


def test_parts_make_up_the_whole(queue: Queue, job_id: int) -> None:
    peak = Peak(peak_bytes=730 * MiB, imported_bytes=490 * MiB, loaded_bytes=540 * MiB)
    estimated, used = zip(*parts(queue, job_id, peak).values(), strict=True)
    assert (sum(estimated), sum(used)) == (sum(CPU.values()) / MiB, 730)


def test_a_worker_that_ended_while_it_loaded_tells_what_it_had_imported(queue: Queue, job_id: int) -> None:
    found = parts(queue, job_id, Peak(peak_bytes=500 * MiB, imported_bytes=490 * MiB))
    assert [used for _, used in found.values()] == [490, None, None]


def test_on_a_gpu_parts_are_told_apart_by_the_allocator(queue: Queue, job_id: int) -> None:
    peak = Peak(peak_bytes=1640 * MiB, context_bytes=540 * MiB, allocated_bytes=1000 * MiB, reserved_bytes=1100 * MiB)
    assert parts(queue, job_id, peak, CUDA, device_kind="cuda") == {
        "context": (600, 540),
        "tensors and workspaces": (1088, 1000),
        "allocator slack": (30, 100),
    }


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_job_that_was_never_traced_has_parts_without_estimates(queue: Queue, job_id: int, kind: str) -> None:
    found = parts(queue, job_id, Peak(peak_bytes=MiB), {}, device_kind=kind)
    assert [estimated for estimated, _ in found.values()] == [None] * 3


# -- for people -------------------------------------------------------------------------------------------------


def checked(**fields: Any) -> Check:
    values: dict[str, Any] = {"id": 7, "name": "resv1", "attempt": 2, "outcome": "succeeded", "device": "a machine"}
    values |= {"basis": "modelled", "estimate_bytes": 800 * MiB, "reservation_bytes": 920 * MiB}
    values |= {"left_bytes": 920 * MiB, "used_bytes": 750 * MiB, "error": 800 / 750 - 1, "parts": []}
    return Check(**(values | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "the reservation 920 MiB: 170 MiB of it unused"),
        ({"outcome": None}, "170 MiB of it unused so far"),
        ({"used_bytes": 930 * MiB}, "10.0 MiB too little"),
        ({"outcome": "out_of_memory", "used_bytes": 920 * MiB}, "not enough, it used at least 920 MiB"),
        ({"left_bytes": 788 * MiB}, "the reservation 920 MiB (788 MiB in the end): 170 MiB of it unused"),
    ],
    ids=["enough", "running", "too little", "out of memory", "given back"],
)
def test_how_the_reservation_did_is_said(fields: dict[str, Any], words: str) -> None:
    assert conclusion(checked(**fields)).endswith(words)


def test_each_part_is_a_row_with_its_error(queue: Queue, job_id: int, capsys: pytest.CaptureFixture[str]) -> None:
    peak = Peak(peak_bytes=1700 * MiB, allocated_bytes=1000 * MiB, reserved_bytes=1100 * MiB)
    queue.store.set_estimate(job_id, modelled(CUDA, 1000))
    show(compared(queue.store.job(job_id), attempt(peak_bytes=peak.peak_bytes, device_kind="cuda"), peak))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["context", "600", "MiB", "?"] in lines
    assert ["tensors", "and", "workspaces", "1.1", "GiB", "1000", "MiB", "+8.8", "%"] in lines
    assert ["all", "400", "MiB", "1.7", "GiB", "-76.5", "%"] in lines
