"""Records of attempts that are another gpuq's, or damaged: the attempt is followed to its end all the same."""

import pytest
from attempts import Start
from bench import Bench
from builders import ended, metrics

from jobs.run_dir import ExitCode, append_line
from scheduler.states import Outcome, State

# -- of a gpuq of schema 1, which started an attempt that outlives it ---------------------------------------------

PROGRESS = '{"parameters": 1000, "resumed_from_step": 0}'
RESULT = (
    '{"epochs": 10, "best_epoch": 9, "best_train_accuracy": 0.9, "best_validation_accuracy": 0.8, '
    '"test_loss": 0.4, "test_accuracy": 0.7, "parameters": 1000, "stopped_early": false}'
)


def begun(bench: Bench) -> int:
    """A job whose worker has begun to train; schema 1 did not say for how many steps."""
    job_id = bench.started()
    bench.files(job_id).folder.mkdir(parents=True, exist_ok=True)
    bench.files(job_id).progress.write_text(PROGRESS)
    bench.tick()
    return job_id


def test_it_is_seen_to_train(bench: Bench) -> None:
    job = bench.job(begun(bench))
    assert (job.state, job.parameters, job.steps) == (State.RUNNING, 1000, None)


def test_its_metrics_are_taken_over_without_a_time_left(bench: Bench) -> None:
    job_id = begun(bench)
    append_line(bench.home.run_dir(job_id).metrics, metrics(1))
    bench.tick()
    job = bench.job(job_id)
    assert (job.epoch, job.step, job.eta_s) == (1, 100, None)


def test_its_result_is_taken_over(bench: Bench) -> None:
    job_id = begun(bench)
    bench.home.run_dir(job_id).result.write_text(RESULT)
    bench.engine.ended[bench.files(job_id).folder] = ended(exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    job = bench.job(job_id)
    assert (job.outcome, job.test_accuracy) == (Outcome.SUCCEEDED, 0.7)


# -- damaged --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": 7}'])
def test_a_damaged_record_is_as_good_as_none(bench: Bench, content: str) -> None:
    job_id = bench.started()
    bench.begin(job_id)
    files = bench.files(job_id)
    for path in (files.failure, files.peak, bench.home.run_dir(job_id).result):
        path.write_text(content)
    bench.engine.ended[files.folder] = ended(exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    attempt = bench.store.attempts(job_id)[0]
    assert (attempt.outcome, attempt.reason) == (
        Outcome.FAILED,
        "ended with exit code 0 and no result; tried again from its checkpoint",
    )


def test_an_attempt_whose_exit_record_is_damaged_is_lost(start: Start) -> None:
    run = start("")
    run.wait()
    run.attempt.exit.write_text("{")
    lost = run.wait()
    assert (lost.exit_code, lost.signal) == (None, None)
