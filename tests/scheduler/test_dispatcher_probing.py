"""A network that cannot be traced is measured by a few steps alone on the device."""

from bench import Bench
from builders import GiB, MiB

from jobs.run_dir import ExitCode, Peak, write_record
from scheduler.estimate import Basis
from scheduler.states import Outcome, State
from scheduler.tracing import Failed


def untraceable(bench: Bench, *job_ids: int) -> None:
    bench.tick()
    bench.estimator.answers = {key: Failed("it reads values of tensors", untraceable=True) for key in job_ids}
    bench.tick()


def probing(bench: Bench) -> int:
    """A job that is being measured."""
    job_id = bench.submit(memory=None)
    untraceable(bench, job_id)
    return job_id


def made_its_steps(bench: Bench, job_id: int, peak_mib: int = 300, **ending: object) -> None:
    bench.begin(job_id)
    write_record(bench.files(job_id).peak, Peak(peak_bytes=peak_mib * MiB))
    bench.end(job_id, exit_code=ExitCode.STOPPED, **ending)
    bench.tick()


def test_it_starts_alone_with_the_whole_device(bench: Bench) -> None:
    job_id = probing(bench)
    assert (bench.launch(job_id).probe, bench.launch(job_id).reservation_bytes) == (True, GiB)


def test_it_waits_until_nothing_else_runs_and_keeps_nobody_waiting(bench: Bench) -> None:
    running = bench.started()
    probed = bench.submit(memory=None)
    untraceable(bench, probed)
    another = bench.submit()
    bench.tick()
    assert bench.job(probed).state is State.QUEUED
    assert bench.starting() == [running, another]


def test_its_peak_becomes_its_measurement_and_it_goes_on_with_that(bench: Bench) -> None:
    job_id = probing(bench)
    made_its_steps(bench, job_id)
    assert bench.store.attempts(job_id)[0].outcome is Outcome.STOPPED
    assert bench.job(job_id).state is State.STARTING
    assert bench.launch(job_id).probe is False
    assert bench.attempt(job_id).basis is Basis.MEASURED
    assert bench.attempt(job_id).predicted_bytes == 300 * MiB
    assert 300 * MiB < bench.launch(job_id).reservation_bytes < 400 * MiB


def test_a_job_like_it_is_placed_by_that_measurement(bench: Bench) -> None:
    first, second = bench.submit(memory=None), bench.submit(memory=None, name="the same again")
    untraceable(bench, first)
    made_its_steps(bench, first)
    assert bench.launch(second).probe is False
    assert bench.attempt(second).basis is Basis.MEASURED


def test_one_that_was_stopped_by_a_person_has_measured_nothing(bench: Bench) -> None:
    job_id = probing(bench)
    made_its_steps(bench, job_id, stop_requested=True)
    assert bench.launch(job_id).probe is True


def test_one_that_needs_more_than_the_device_ends(bench: Bench) -> None:
    job_id = probing(bench)
    for _ in range(3):
        bench.end(job_id, exit_code=ExitCode.OUT_OF_MEMORY)
        bench.tick()
    assert bench.job(job_id).outcome is Outcome.OUT_OF_MEMORY


def test_a_network_that_fails_in_the_trace_for_another_reason_is_not_tried(bench: Bench) -> None:
    job_id = bench.submit(memory=None)
    bench.tick()
    bench.estimator.answers = {job_id: Failed("boom")}
    bench.tick()
    assert (bench.job(job_id).outcome, bench.job(job_id).reason) == (Outcome.FAILED, "boom")
