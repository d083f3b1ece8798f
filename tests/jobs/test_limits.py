"""A job's time limit, and the signs of progress that its worker gives."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tiny import STEPS, TEST_BATCHES, VALIDATION_BATCHES, after, assert_same, job, launch, saved, train, trainer

from jobs.diagnostics.survey import known
from jobs.heartbeat import INTERVAL_S, Heartbeat
from jobs.room import StopRequested
from jobs.run_dir import ExitCode, Failure, Progress, Result, RunDir, read_metrics, read_record, write_record
from jobs.spec import DiagnosticsSpec, JobSpec, LimitsSpec
from jobs.train import TimeUp
from jobs.worker import run_attempt

GRID = 3
LANDSCAPE = DiagnosticsSpec(landscape=True, landscape_grid=GRID)


def limited(time: str, **changes: object) -> JobSpec:
    return job(limits=LimitsSpec(time=time), **changes)


def trained_s(folder: Path) -> float:
    """Training time by the last line of metrics."""
    return read_metrics(RunDir(folder).metrics)[-1].elapsed_s


class TestTimeLimit:
    """The clock of these trainings advances by a second whenever it is asked."""

    def test_training_ends_at_its_limit_after_a_checkpoint(self, tmp_path: Path, cache_dir: Path) -> None:
        with pytest.raises(TimeUp, match=r"^its time limit of 5s is up \(limits.time\)$"):
            train(limited("5s", checkpoint_every="1h"), tmp_path, cache_dir)
        assert 0 < saved(RunDir(tmp_path).last_checkpoint)["position"]["step"] < 3 * STEPS

    def test_going_on_after_it_equals_uninterrupted(self, tmp_path: Path, cache_dir: Path) -> None:
        reference, interrupted = tmp_path / "reference", tmp_path / "interrupted"
        expected = train(job(), reference, cache_dir)
        for _ in range(2):
            with pytest.raises(TimeUp):
                train(limited("5s"), interrupted, cache_dir)
        assert train(job(), interrupted, cache_dir) == expected
        assert_same(RunDir(interrupted), RunDir(reference))

    def test_a_training_that_is_complete_when_time_is_up_is_tested(self, tmp_path: Path, cache_dir: Path) -> None:
        train(limited("1d"), tmp_path / "unhurried", cache_dir)
        needed_s = trained_s(tmp_path / "unhurried")
        result = train(limited(f"{needed_s:.0f}s"), tmp_path / "just so", cache_dir)
        assert result.steps == 3 * STEPS
        assert trained_s(tmp_path / "just so") == needed_s

    def test_the_landscape_counts_and_goes_on_where_it_was(self, tmp_path: Path, cache_dir: Path) -> None:
        train(limited("1d", epochs=1), tmp_path / "unhurried", cache_dir)
        spec = limited(f"{trained_s(tmp_path / 'unhurried'):.0f}s", epochs=1, diagnostics=LANDSCAPE)
        for rows in range(1, GRID):
            with pytest.raises(TimeUp):
                trainer(spec, tmp_path / "run", cache_dir, counted_from_s=0.0).run()
            landscape = known(RunDir(tmp_path / "run").landscape)
            assert landscape is not None
            assert len(landscape.losses) == rows
        assert trainer(spec, tmp_path / "run", cache_dir, counted_from_s=0.0).run().steps == STEPS


# When each earlier attempt began to train, as a share of the training time so far (None: it never did); the first
# attempt that counts; how the next ends, if its limit is half the training time so far.
COUNTED = {
    "all attempts count": ([0.0, 0.7], 1, ExitCode.TIMED_OUT),
    "from the first that began to train": ([None, 0.7], 1, ExitCode.SUCCEEDED),
    "since the last retry": ([0.0, 0.7], 2, ExitCode.SUCCEEDED),
    "only this one, just retried": ([0.0, 0.0], 3, ExitCode.SUCCEEDED),
    "none began to train": ([None, None], 1, ExitCode.SUCCEEDED),
}


def so_far_s(files: RunDir) -> float:
    """Training time by the last checkpoint."""
    position = torch.load(files.last_checkpoint, weights_only=True)["position"]
    return float(position["elapsed_s"])


def test_an_attempt_tells_the_training_time_before_it(tmp_path: Path, cache_dir: Path) -> None:
    files = RunDir(tmp_path)
    for attempt in (1, 2):
        expected = 0.0 if attempt == 1 else so_far_s(files)
        with pytest.raises(StopRequested):
            trainer(job(), tmp_path, cache_dir, after(1)).run()
        progress = read_record(files.attempt(1).progress, Progress)
        assert progress is not None
        assert progress.elapsed_s == expected
    assert expected > 0


class TestWorker:
    @pytest.mark.parametrize(("began", "first_counted", "code"), COUNTED.values(), ids=COUNTED)
    def test_the_limit_counts_the_attempts_since_the_last_retry(
        self, tmp_path: Path, cache_dir: Path, began: list[float | None], first_counted: int, code: ExitCode
    ) -> None:
        files, hours = RunDir(tmp_path), itertools.count(step=3600)
        with pytest.raises(StopRequested):
            trainer(job(epochs=1), tmp_path, cache_dir, after(1), clock=lambda: float(next(hours))).run()
        spent_s = so_far_s(files)
        for number, share in enumerate(began, start=1):
            files.attempt(number).progress.unlink(missing_ok=True)
            if share is not None:
                progress = Progress(parameters=1, resumed_from_step=0, steps=STEPS, elapsed_s=share * spent_s)
                write_record(files.attempt(number).progress, progress)
        spec = limited(f"{spent_s / 2:.0f}s", epochs=1)
        third = replace(launch(cache_dir), number=3, first_counted=first_counted)
        assert run_attempt(spec, files, files.attempt(3), third, lambda: False) == code

    def test_at_its_limit_it_ends_with_an_exit_code_and_words_of_its_own(
        self, tmp_path: Path, cache_dir: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        files, spec = RunDir(tmp_path), limited("0.000001s")
        files.create(spec)
        code = run_attempt(spec, files, files.attempt(1), launch(cache_dir), lambda: False)
        assert code == ExitCode.TIMED_OUT
        failure = Failure(kind="TimeUp", message="its time limit of 0.000001s is up (limits.time)")
        assert read_record(files.attempt(1).failure, Failure) == failure
        assert files.last_checkpoint.exists()
        assert "Traceback" not in capfd.readouterr().err

    def test_its_heart_beats(self, tmp_path: Path, cache_dir: Path) -> None:
        files, spec = RunDir(tmp_path), job(epochs=1)
        files.create(spec)
        run_attempt(spec, files, files.attempt(1), launch(cache_dir), lambda: False)
        assert read_record(files.result, Result) is not None
        assert files.attempt(1).heartbeat.exists()


def test_progress_is_the_start_each_step_and_each_batch_of_an_evaluation_or_a_landscape(
    tmp_path: Path, cache_dir: Path
) -> None:
    signs: list[None] = []
    trainer(job(diagnostics=LANDSCAPE), tmp_path, cache_dir, on_progress=lambda: signs.append(None)).run()
    explored = GRID * GRID + 1  # the network as it is comes before the grid
    assert len(signs) == 1 + 3 * (STEPS + VALIDATION_BATCHES) + TEST_BATCHES + explored * TEST_BATCHES


class TestHeartbeat:
    def test_it_touches_its_file_once_a_second_at_most(self, tmp_path: Path) -> None:
        now = 0.0
        file = tmp_path / "heartbeat"
        beat = Heartbeat(file, lambda: now)
        touched = []
        for _ in range(9):
            beat()
            touched.append(file.stat().st_mtime_ns != 0)
            os.utime(file, ns=(0, 0))
            now += INTERVAL_S / 4
        assert touched == [True, False, False, False] * 2 + [True]

    def test_its_file_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        Heartbeat(tmp_path / "heartbeat")()
        assert (tmp_path / "heartbeat").stat().st_mode & 0o777 == 0o600

    def test_a_file_that_cannot_be_written_does_not_end_training(self, tmp_path: Path) -> None:
        Heartbeat(tmp_path / "no such folder" / "heartbeat")()
