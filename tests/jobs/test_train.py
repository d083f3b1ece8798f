"""Training: what it writes, when it ends, and that stopping and going on changes nothing."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from tiny import (
    BATCH,
    STEPS,
    TEST_BATCHES,
    VALIDATION_BATCHES,
    after,
    identical,
    job,
    learned,
    saved,
    train,
    trainer,
    user_job,
)
from torch.utils._python_dispatch import TorchDispatchMode

from jobs import schedule
from jobs.errors import CheckpointError, TrainingError
from jobs.run_dir import FlowLine, Metrics, Progress, Result, RunDir, read_lines, read_metrics, read_record
from jobs.schedule import ScheduleState
from jobs.spec import Adam, AdamW, Cosine, DiagnosticsSpec, JobSpec, Optimizer, Plateau, Sgd
from jobs.train import StopRequested

OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "adam": Adam(), "adamw": AdamW()}
Recipe = Callable[[str], JobSpec]


@pytest.fixture(scope="module")
def recipe(user_file: Path) -> Recipe:
    """A job with all that draws random numbers: augmentation, and a network with dropout."""

    def recipe(optimizer: str) -> JobSpec:
        return user_job(
            user_file, "small", optimizer=OPTIMIZERS[optimizer], schedule=Cosine(warmup_epochs=1), augment="easy"
        )

    return recipe


@pytest.fixture(scope="module")
def uninterrupted(
    recipe: Recipe, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[RunDir, Result]]:
    """The run directory and result of a job that ran through, by its optimizer; each runs once."""

    @cache
    def run(optimizer: str) -> tuple[RunDir, Result]:
        folder = tmp_path_factory.mktemp(optimizer)
        return RunDir(folder), train(recipe(optimizer), folder, cache_dir)

    return run


def assert_same(files: RunDir, reference: RunDir) -> None:
    """Metrics, weights, optimizer, generators and position, bit for bit."""
    assert learned(files) == learned(reference)
    assert identical(saved(files.last_checkpoint), saved(reference.last_checkpoint))
    assert identical(saved(files.best_checkpoint), saved(reference.best_checkpoint))


class TestResume:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize(
        "steps", [1, STEPS, STEPS + 3], ids=["in the first chunk", "at an epoch's end", "in a later chunk"]
    )
    def test_stopped_and_resumed_equals_uninterrupted(
        self, tmp_path: Path, cache_dir: Path, recipe: Recipe, uninterrupted: Any, optimizer: str, steps: int
    ) -> None:
        with pytest.raises(StopRequested):
            trainer(recipe(optimizer), tmp_path, cache_dir, after(steps)).run()
        torch.manual_seed(99)  # another process would draw other numbers
        result = train(recipe(optimizer), tmp_path, cache_dir)
        reference, expected = uninterrupted(optimizer)
        assert result == expected
        assert_same(RunDir(tmp_path), reference)

    def test_stopped_at_every_step_equals_uninterrupted(
        self, tmp_path: Path, cache_dir: Path, recipe: Recipe, uninterrupted: Any
    ) -> None:
        for _ in range(3 * STEPS - 1):
            with pytest.raises(StopRequested):
                trainer(recipe("sgd"), tmp_path, cache_dir, after(1)).run()
        train(recipe("sgd"), tmp_path, cache_dir)
        assert_same(RunDir(tmp_path), uninterrupted("sgd")[0])

    @pytest.mark.parametrize(
        "every", ["0s", "1 epoch", "1h"], ids=["from the last step", "from the last epoch", "from the beginning"]
    )
    def test_killed_and_resumed_equals_uninterrupted(
        self, tmp_path: Path, cache_dir: Path, recipe: Recipe, uninterrupted: Any, every: str
    ) -> None:
        spec = recipe("sgd")
        spec = job_with(spec, checkpoint_every=every)
        with pytest.raises(Killed):
            trainer(spec, tmp_path, cache_dir, killing(2 * STEPS + 1)).run()
        assert len(read_metrics(RunDir(tmp_path).metrics)) == 2
        train(spec, tmp_path, cache_dir)
        assert_same(RunDir(tmp_path), uninterrupted("sgd")[0])

    def test_killed_before_the_test_only_tests(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> None:
        spec = user_job(user_file, "Counting")
        expected = train(spec, tmp_path, cache_dir)
        again = trainer(spec, tmp_path, cache_dir)
        assert again.run() == expected
        assert again.network.evaluated == TEST_BATCHES
        assert len(read_metrics(RunDir(tmp_path).metrics)) == 3

    def test_progress_tells_where_the_attempt_began(self, tmp_path: Path, cache_dir: Path) -> None:
        for steps, expected in ((0, 0), (STEPS + 1, 0), (0, STEPS + 1)):
            attempt = trainer(job(), tmp_path, cache_dir, after(steps))
            with pytest.raises(StopRequested):
                attempt.run()
            progress = read_record(RunDir(tmp_path).attempt(1).progress, Progress)
            parameters = sum(parameter.numel() for parameter in attempt.network.parameters())
            assert progress == Progress(parameters=parameters, resumed_from_step=expected, steps=3 * STEPS)

    def test_a_checkpoint_of_another_job_is_refused(self, tmp_path: Path, cache_dir: Path) -> None:
        train(job(epochs=1), tmp_path, cache_dir)
        with pytest.raises(CheckpointError, match="belongs to another job"):
            train(job(epochs=1, seed=1), tmp_path, cache_dir)


class Killed(BaseException):
    """Ends training as SIGKILL does: nothing more is written."""


def killing(steps: int) -> Callable[[], bool]:
    wish = after(steps)

    def should_stop() -> bool:
        if wish():
            raise Killed
        return False

    return should_stop


class TestIterations:
    """Training counted in iterations: evaluated every so many, across epochs, and ended in the middle of one."""

    SPEC = job(iterations=3 * STEPS - 1, evaluate_every=3, schedule=Cosine(), augment="easy")

    def test_a_line_comes_every_so_many_iterations_and_at_the_end(self, tmp_path: Path, cache_dir: Path) -> None:
        train(self.SPEC, tmp_path, cache_dir)
        lines = read_metrics(RunDir(tmp_path).metrics)
        assert [(line.step, line.epoch) for line in lines] == [(3, 1), (6, 2), (9, 3), (11, 3)]

    def test_a_line_counts_the_images_since_the_line_before(self, tmp_path: Path, cache_dir: Path) -> None:
        train(self.SPEC, tmp_path, cache_dir)
        images = [3 * BATCH, 160 - 3 * BATCH + 2 * BATCH, BATCH + 160 - 3 * BATCH + BATCH, 2 * BATCH]
        for line, count in zip(read_metrics(RunDir(tmp_path).metrics), images, strict=True):
            assert line.train_accuracy * count == pytest.approx(round(line.train_accuracy * count), abs=1e-9)
            assert 0 < line.train_loss < 10

    def test_how_often_it_is_evaluated_changes_no_weight(self, tmp_path: Path, cache_dir: Path) -> None:
        weights = []
        for every in (3, None):
            folder = tmp_path / str(every)
            one = trainer(job_with(self.SPEC, evaluate_every=every), folder, cache_dir)
            one.run()
            weights.append(saved(RunDir(folder).last_checkpoint)["network"])
        assert identical(*weights)

    @pytest.mark.parametrize("steps", range(1, 11))
    def test_stopped_and_resumed_equals_uninterrupted(self, tmp_path: Path, cache_dir: Path, steps: int) -> None:
        reference = tmp_path / "reference"
        expected = train(self.SPEC, reference, cache_dir)
        with pytest.raises(StopRequested):
            trainer(self.SPEC, tmp_path, cache_dir, after(steps)).run()
        assert train(self.SPEC, tmp_path, cache_dir) == expected
        assert_same(RunDir(tmp_path), RunDir(reference))

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


def job_with(spec: JobSpec, **changes: Any) -> JobSpec:
    return replace(spec, train=replace(spec.train, **changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[JobSpec, RunDir, Result]:
    """A job of four epochs that ran through: its spec, its run directory and its result."""
    spec = job(epochs=4, schedule=Cosine(warmup_epochs=2), checkpoint_every="1 epoch")
    folder = tmp_path_factory.mktemp("run")
    return spec, RunDir(folder), train(spec, folder, cache_dir)


class TestMetrics:
    def test_there_is_one_whole_line_an_epoch(self, run: tuple[JobSpec, RunDir, Result]) -> None:
        lines = [json.loads(line) for line in run[1].metrics.read_text().splitlines()]
        assert [line.keys() for line in lines] == [dict.fromkeys(Metrics.__struct_fields__).keys()] * 4
        assert [(line["epoch"], line["step"]) for line in lines] == [(epoch, epoch * STEPS) for epoch in (1, 2, 3, 4)]

    def test_its_values_are_possible(self, run: tuple[JobSpec, RunDir, Result]) -> None:
        for line in read_metrics(run[1].metrics):
            assert 0 < line.train_loss < 10
            assert 0 < line.validation_loss < 10
            assert line.train_accuracy * 160 == pytest.approx(round(line.train_accuracy * 160), abs=1e-9)
            assert line.validation_accuracy * 20 == pytest.approx(round(line.validation_accuracy * 20), abs=1e-9)
            assert line.images_per_s == 160  # the clock's one second
            assert line.peak_bytes > 2**20

    def test_the_rate_is_the_schedule_s_at_the_epoch_s_last_step(self, run: tuple[JobSpec, RunDir, Result]) -> None:
        spec, files, _ = run
        length = schedule.length(spec.train, STEPS)
        expected = [
            schedule.rate(spec.schedule, spec.optimizer.lr, ScheduleState(), length, epoch * STEPS - 1)
            for epoch in (1, 2, 3, 4)
        ]
        assert [line.lr for line in read_metrics(files.metrics)] == expected

    def test_the_clock_goes_on(self, run: tuple[JobSpec, RunDir, Result]) -> None:
        elapsed = [line.elapsed_s for line in read_metrics(run[1].metrics)]
        assert elapsed == sorted(set(elapsed))

    def test_the_result_sums_the_run_up(self, run: tuple[JobSpec, RunDir, Result]) -> None:
        _, files, result = run
        lines = read_metrics(files.metrics)
        accuracies = [line.validation_accuracy for line in lines]
        assert (result.epochs, result.steps) == (4, 4 * STEPS)
        assert result.best_validation_accuracy == max(accuracies)
        assert result.best_epoch == accuracies.index(max(accuracies)) + 1
        assert result.best_step == result.best_epoch * STEPS
        assert result.best_train_accuracy == max(line.train_accuracy for line in lines)
        assert not result.stopped_early

    def test_elapsed_time_counts_all_attempts(self, tmp_path: Path, cache_dir: Path) -> None:
        with pytest.raises(StopRequested):
            trainer(job(), tmp_path, cache_dir, after(STEPS)).run()
        first = read_metrics(RunDir(tmp_path).metrics)[0].elapsed_s
        train(job(), tmp_path, cache_dir)
        assert read_metrics(RunDir(tmp_path).metrics)[1].elapsed_s > first


class TestEnds:
    def test_a_plateau_ends_training_early(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> None:
        plateau = Plateau(warmup_epochs=0, patience=0, factor=0.1, min_lr=1e-3)
        result = train(user_job(user_file, "Stubborn", schedule=plateau, epochs=50), tmp_path, cache_dir)
        assert (result.epochs, result.stopped_early) == (3, True)  # 0.05, 0.05, 0.005, and not 0.0005
        assert [line.lr for line in read_metrics(RunDir(tmp_path).metrics)] == pytest.approx([0.05, 0.05, 0.005])

    def test_the_best_epoch_s_weights_are_kept_and_tested(
        self, tmp_path: Path, cache_dir: Path, user_file: Path
    ) -> None:
        spec = user_job(user_file, "Wobbling", options={"steps": 3 * STEPS}, epochs=5, optimizer=Adam(lr=3e-3))
        one = trainer(spec, tmp_path, cache_dir)
        result = one.run()
        best = saved(RunDir(tmp_path).best_checkpoint)["network"]
        assert result.best_epoch <= 3
        assert best["trained"] == result.best_epoch * STEPS
        assert identical(dict(one.network.state_dict()), best)

    def test_the_test_part_is_measured_once(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> None:
        one = trainer(user_job(user_file, "Counting"), tmp_path, cache_dir)
        one.run()
        assert one.network.evaluated == 3 * VALIDATION_BATCHES + TEST_BATCHES
        assert one.network.trained == one.position.best.epoch * STEPS

    @pytest.mark.parametrize("epoch", [1, 2])
    def test_a_loss_that_is_no_number_ends_training_and_names_the_step(
        self, tmp_path: Path, cache_dir: Path, user_file: Path, epoch: int
    ) -> None:
        step = (epoch - 1) * STEPS + 2  # the second of its epoch, numbered from 0 below
        spec = user_job(user_file, "Diverging", options={"step": step}, checkpoint_every="0s")
        with pytest.raises(TrainingError, match=rf"step {step - 1} \(epoch {epoch}\)"):
            train(spec, tmp_path, cache_dir)
        assert len(read_metrics(RunDir(tmp_path).metrics)) == epoch - 1

    def test_the_last_good_checkpoint_is_kept(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> None:
        spec = user_job(user_file, "Diverging", options={"step": STEPS + 2}, checkpoint_every="0s")
        with pytest.raises(TrainingError):
            train(spec, tmp_path, cache_dir)
        state = saved(RunDir(tmp_path).last_checkpoint)
        assert state["position"]["step"] == STEPS + 1
        assert all(weight.isfinite().all() for weight in state["network"].values())

    def test_images_held_out_must_have_a_loss_too(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> None:
        with pytest.raises(TrainingError, match=f"held out is not finite after {STEPS} steps"):
            train(user_job(user_file, "Diverging"), tmp_path, cache_dir)
        assert read_metrics(RunDir(tmp_path).metrics) == []

    def test_a_checkpoint_is_written_at_the_end_however_soon_it_comes(self, tmp_path: Path, cache_dir: Path) -> None:
        train(job(epochs=1, checkpoint_every="1h"), tmp_path, cache_dir)
        assert saved(RunDir(tmp_path).last_checkpoint)["position"]["step"] == STEPS


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors whose values reach the host, whichever way they take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name: str, method: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count[name] += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_no_batch_waits_for_the_host(
    tmp_path: Path, cache_dir: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for batch_size in (BATCH, BATCH // 4):
        spec = user_job(user_file, "small", epochs=1, batch_size=batch_size, chunk_size=1000)
        one = trainer(spec, tmp_path / str(batch_size), cache_dir)
        with monkeypatch.context() as patch, Reads(patch) as reads:
            one.run()
        counts.append(reads.count)
    assert counts[0] == counts[1]  # with four times the batches
    assert counts[0]["tolist"] == 3  # of training, validation and test


def test_what_is_counted_as_a_read_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.ones(1)
    with Reads(monkeypatch) as reads:
        one.item()
        one.tolist()
        bool(one > 0)
    assert reads.count.total() == 3


def test_the_official_test_part_is_on_the_device_once_though_it_serves_twice(tmp_path: Path, cache_dir: Path) -> None:
    official = job(split="official")
    made = trainer(official, tmp_path, cache_dir)
    assert made.data.test is made.data.validation
    assert len(made.data.test) == 1000
