"""Training is a matter of steps: evaluations, checkpoints and recordings come between any two of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tiny import (
    BATCH,
    STEPS,
    Killed,
    after,
    assert_same,
    identical,
    job,
    job_with,
    killing,
    learned,
    saved,
    train,
    trainer,
    user_job,
)

from jobs.diagnostics.landscape import Landscape
from jobs.errors import TrainingError
from jobs.room import StopRequested
from jobs.run_dir import FlowLine, Result, RunDir, read_lines, read_metrics, read_record, write_record
from jobs.spec import Cosine, DiagnosticsSpec


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> RunDir:
    """Of iterations that nobody interrupts."""
    torch.set_num_threads(1)  # as for the tests: sums are in the same order
    files = RunDir(tmp_path_factory.mktemp("reference"))
    write_record(files.result, train(TestIterations.SPEC, files.path, cache_dir))
    return files


class TestIterations:
    """Training counted in iterations: evaluated every so many, across epochs, and ended in the middle of one."""

    SPEC = job(iterations=3 * STEPS - 1, evaluate_every=3, schedule=Cosine(), augment="easy")

    def test_a_line_comes_every_so_many_iterations_and_at_the_end(self, reference: RunDir) -> None:
        lines = read_metrics(reference.metrics)
        assert [(line.step, line.epoch) for line in lines] == [(3, 1), (6, 2), (9, 3), (11, 3)]

    def test_a_line_counts_the_images_since_the_line_before(self, reference: RunDir) -> None:
        images = [3 * BATCH, 160 - 3 * BATCH + 2 * BATCH, BATCH + 160 - 3 * BATCH + BATCH, 2 * BATCH]
        for line, count in zip(read_metrics(reference.metrics), images, strict=True):
            assert line.train_accuracy * count == pytest.approx(round(line.train_accuracy * count), abs=1e-9)
            assert 0 < line.train_loss < 10

    def test_how_often_it_is_evaluated_changes_no_weight(
        self, reference: RunDir, tmp_path: Path, cache_dir: Path
    ) -> None:
        train(job_with(self.SPEC, evaluate_every=None), tmp_path, cache_dir)
        weights = (saved(files.last_checkpoint)["network"] for files in (reference, RunDir(tmp_path)))
        assert identical(*weights)

    @pytest.mark.parametrize("steps", range(1, 11))
    def test_stopped_and_resumed_equals_uninterrupted(
        self, reference: RunDir, tmp_path: Path, cache_dir: Path, steps: int
    ) -> None:
        with pytest.raises(StopRequested):
            trainer(self.SPEC, tmp_path, cache_dir, after(steps)).run()
        assert train(self.SPEC, tmp_path, cache_dir) == read_record(reference.result, Result)
        assert_same(RunDir(tmp_path), reference)

    def test_epochs_and_as_many_iterations_train_alike(self, tmp_path: Path, cache_dir: Path) -> None:
        by_epochs, by_iterations = tmp_path / "epochs", tmp_path / "iterations"
        train(job(epochs=3), by_epochs, cache_dir)
        train(job(iterations=3 * STEPS), by_iterations, cache_dir)
        assert learned(RunDir(by_epochs)) == learned(RunDir(by_iterations))


class TestCheckpoints:
    def test_a_long_epoch_is_not_lost(self, tmp_path: Path, cache_dir: Path) -> None:
        """One comes by time in the middle of an epoch: the test's clock ticks once a step."""
        with pytest.raises(Killed):
            trainer(job(checkpoint_every="2s"), tmp_path, cache_dir, killing(STEPS - 1)).run()
        assert 0 < saved(RunDir(tmp_path).last_checkpoint)["position"]["step"] < STEPS

    def test_one_comes_by_epochs(self, tmp_path: Path, cache_dir: Path) -> None:
        with pytest.raises(Killed):
            trainer(job(epochs=4, checkpoint_every="2 epochs"), tmp_path, cache_dir, killing(4 * STEPS - 1)).run()
        assert saved(RunDir(tmp_path).last_checkpoint)["position"]["step"] == 2 * STEPS

    def test_none_is_written_of_weights_that_are_no_numbers(
        self, tmp_path: Path, cache_dir: Path, user_file: Path
    ) -> None:
        """The loss that went wrong is noticed when the checkpoint is due, not only at the epoch's end."""
        spec = user_job(user_file, "Diverging", options={"step": 2}, checkpoint_every="0s")
        with pytest.raises(TrainingError, match="step 1"):
            train(spec, tmp_path, cache_dir)
        assert saved(RunDir(tmp_path).last_checkpoint)["position"]["step"] == 1


class TestGradientFlow:
    SPEC = job(epochs=2, diagnostics=DiagnosticsSpec(gradient_flow=True))

    def test_there_is_a_line_an_evaluation_with_every_weight(self, tmp_path: Path, cache_dir: Path) -> None:
        one = trainer(self.SPEC, tmp_path, cache_dir)
        one.run()
        lines = read_lines(RunDir(tmp_path).gradient_flow, FlowLine)
        weights = [name for name, parameter in one.network.named_parameters() if parameter.ndim > 1]
        assert [(line.epoch, line.step) for line in lines] == [(1, STEPS), (2, 2 * STEPS)]
        assert [list(line.mean_absolute) for line in lines] == [weights, weights]
        assert all(value > 0 for line in lines for value in line.mean_absolute.values())

    def test_it_changes_nothing_of_the_training(self, tmp_path: Path, cache_dir: Path) -> None:
        plain = replace(self.SPEC, diagnostics=DiagnosticsSpec())
        for name, spec in (("flow", self.SPEC), ("plain", plain)):
            train(spec, tmp_path / name, cache_dir)
        assert learned(RunDir(tmp_path / "flow")) == learned(RunDir(tmp_path / "plain"))

    def test_it_survives_a_stop_in_the_middle_of_an_epoch(self, tmp_path: Path, cache_dir: Path) -> None:
        train(self.SPEC, tmp_path / "reference", cache_dir)
        with pytest.raises(StopRequested):
            trainer(self.SPEC, tmp_path, cache_dir, after(STEPS + 2)).run()
        train(self.SPEC, tmp_path, cache_dir)
        expected = RunDir(tmp_path / "reference").gradient_flow.read_text()
        assert RunDir(tmp_path).gradient_flow.read_text() == expected


class TestLandscape:
    SPEC = job(epochs=1, diagnostics=DiagnosticsSpec(landscape=True, landscape_grid=3, landscape_images=5))

    def landscape(self, folder: Path) -> Landscape:
        landscape = read_record(RunDir(folder).landscape, Landscape)
        assert landscape is not None
        return landscape

    def test_it_is_explored_after_training_around_the_weights_that_were_tested(
        self, tmp_path: Path, cache_dir: Path
    ) -> None:
        train(self.SPEC, tmp_path, cache_dir)
        landscape = self.landscape(tmp_path)
        assert landscape.complete
        assert landscape.losses[1][1] == landscape.loss

    def test_stopped_between_rows_it_goes_on_there(self, tmp_path: Path, cache_dir: Path) -> None:
        expected = train(self.SPEC, tmp_path / "reference", cache_dir)
        with pytest.raises(StopRequested):
            trainer(self.SPEC, tmp_path, cache_dir, after(STEPS + 1)).run()
        assert len(self.landscape(tmp_path).losses) == 2
        assert train(self.SPEC, tmp_path, cache_dir) == expected
        assert self.landscape(tmp_path).losses == self.landscape(tmp_path / "reference").losses

    def test_one_of_other_weights_is_not_taken_for_it(self, tmp_path: Path, cache_dir: Path) -> None:
        """A person drew one while the job still trained."""
        train(self.SPEC, tmp_path / "reference", cache_dir)
        expected = self.landscape(tmp_path / "reference")
        assert expected.loss is not None
        other = replace(expected, loss=expected.loss * 2, losses=[[9.0] * 3] * 3)
        write_record(RunDir(tmp_path).landscape, other)
        train(self.SPEC, tmp_path, cache_dir)
        assert self.landscape(tmp_path).losses == expected.losses
