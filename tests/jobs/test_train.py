"""Training: what it writes, when it ends, and that stopping and going on changes nothing."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    BATCH,
    STEPS,
    TEST_BATCHES,
    VALIDATION_BATCHES,
    Killed,
    after,
    assert_same,
    identical,
    job,
    job_with,
    killing,
    saved,
    train,
    trainer,
    user_job,
)
from torch.utils._python_dispatch import TorchDispatchMode

import jobs.train
from jobs import schedule
from jobs.errors import CheckpointError, TrainingError
from jobs.room import StopRequested
from jobs.run_dir import Metrics, Progress, Result, RunDir, read_metrics, read_record
from jobs.schedule import ScheduleState
from jobs.spec import Adam, AdamW, Cosine, JobSpec, Optimizer, Plateau, Sgd

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
            assert progress is not None
            assert (progress.parameters, progress.steps) == (parameters, 3 * STEPS)
            assert progress.resumed_from_step == expected

    def test_a_checkpoint_of_another_job_is_refused(self, tmp_path: Path, cache_dir: Path) -> None:
        train(job(epochs=1), tmp_path, cache_dir)
        with pytest.raises(CheckpointError, match="belongs to another job"):
            train(job(epochs=1, seed=1), tmp_path, cache_dir)


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

    def test_the_gradients_are_gone_before_the_best_weights_take_their_room(
        self, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: list[bool] = []
        loading = jobs.train.load_weights

        def noting(path: Path, network: torch.nn.Module) -> None:
            held.append(any(parameter.grad is not None for parameter in network.parameters()))
            loading(path, network)

        monkeypatch.setattr("jobs.train.load_weights", noting)
        train(job("resv1", {"width": 4, "blocks": [1, 1, 1, 1]}), tmp_path, cache_dir)
        assert held == [False]

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
