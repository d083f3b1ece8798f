"""A checkpoint that is not whole is left out for the one before it, and training goes on as if nothing had been."""

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import STEPS, Killed, assert_same, identical, job, job_with, killing, saved, train, trainer, user_job

from jobs.errors import CheckpointError
from jobs.run_dir import Progress, Result, RunDir, read_metrics, read_record
from jobs.spec import Adam, JobSpec

KILLED_AT = 2 * STEPS + 2
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
}


@pytest.fixture(scope="module")
def spec(user_file: Path) -> JobSpec:
    return user_job(user_file, "small", augment="easy", checkpoint_every="0s")


@pytest.fixture(scope="module")
def reference(spec: JobSpec, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Of the same job left in peace."""
    folder = tmp_path_factory.mktemp("reference")
    torch.set_num_threads(1)  # as for the tests: sums are in the same order
    train(spec, folder, cache_dir)
    return RunDir(folder)


@pytest.fixture
def killed(spec: JobSpec, cache_dir: Path, tmp_path: Path) -> RunDir:
    """A training killed in the third epoch, with a checkpoint at each of the last two steps."""
    with pytest.raises(Killed):
        trainer(spec, tmp_path, cache_dir, killing(KILLED_AT)).run()
    files = RunDir(tmp_path)
    steps = [saved(path)["position"]["step"] for path in (files.previous_checkpoint, files.last_checkpoint)]
    assert steps == [KILLED_AT - 1, KILLED_AT]
    return files


def resumed_from(files: RunDir) -> int:
    progress = read_record(files.attempt(1).progress, Progress)
    assert progress is not None
    return progress.resumed_from_step


def damage(path: Path, how: Callable[[bytes], bytes]) -> bytes:
    damaged = how(path.read_bytes())
    path.write_bytes(damaged)
    return damaged


@pytest.mark.parametrize("how", [DAMAGES["empty"], DAMAGES["cut"]], ids=["empty", "cut"])
def test_the_one_before_is_gone_on_with_bit_for_bit(
    killed: RunDir, spec: JobSpec, cache_dir: Path, reference: RunDir, how: Callable[[bytes], bytes]
) -> None:
    damage(killed.last_checkpoint, how)
    train(spec, killed.path, cache_dir)
    assert resumed_from(killed) == KILLED_AT - 1
    assert_same(killed, reference)


def test_the_log_names_the_damaged_one_which_is_kept(
    killed: RunDir, spec: JobSpec, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = damage(killed.last_checkpoint, DAMAGES["cut"])
    train(spec, killed.path, cache_dir)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{killed.last_checkpoint}: damaged: ")
    assert line.endswith("; it is left out, and kept as last.damaged")
    assert killed.last_checkpoint.with_suffix(".damaged").read_bytes() == damaged


def test_the_damaged_one_never_takes_the_place_of_the_whole_one(killed: RunDir, spec: JobSpec, cache_dir: Path) -> None:
    damage(killed.last_checkpoint, DAMAGES["cut"])
    with pytest.raises(Killed):
        trainer(spec, killed.path, cache_dir, killing(1)).run()
    steps = [saved(path)["position"]["step"] for path in (killed.previous_checkpoint, killed.last_checkpoint)]
    assert steps == [KILLED_AT - 1, KILLED_AT]


def test_if_both_are_damaged_training_begins_anew_and_says_so(
    killed: RunDir, spec: JobSpec, cache_dir: Path, reference: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(killed.last_checkpoint, DAMAGES["cut"])
    damage(killed.previous_checkpoint, DAMAGES["empty"])
    train(spec, killed.path, cache_dir)
    assert capsys.readouterr().out.splitlines()[-1] == "no whole checkpoint is left: training begins anew"
    assert resumed_from(killed) == 0
    assert_same(killed, reference)


@pytest.mark.parametrize("at", [1, 2], ids=["before either has its new name", "between the two"])
def test_a_crash_while_checkpoints_change_names_leaves_one_to_go_on_from(
    spec: JobSpec, cache_dir: Path, tmp_path: Path, reference: RunDir, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    replace, named = Path.replace, []

    def crash(path: Path, target: Path) -> Path:
        if "checkpoints" in path.parts and "best" not in path.name:
            named.append(target.name)
            if len(named) == 1 + at:  # the first checkpoint has none before it
                raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(Killed):
        train(spec, tmp_path, cache_dir)
    monkeypatch.undo()
    assert named == ["last.pt", "previous.pt", "last.pt"][: 1 + at]
    train(spec, tmp_path, cache_dir)
    assert resumed_from(RunDir(tmp_path)) == 1
    assert_same(RunDir(tmp_path), reference)


def test_one_of_another_job_is_refused_not_left_out(killed: RunDir, spec: JobSpec, cache_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: belongs to another job"):
        train(job_with(spec, seed=1), killed.path, cache_dir)
    assert killed.last_checkpoint.exists()


def test_one_that_the_disk_does_not_give_back_is_left_out_too(
    killed: RunDir, spec: JobSpec, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Archive(zipfile.ZipFile):
        def __init__(self, path: Path) -> None:
            if path == killed.last_checkpoint:
                raise OSError(errno.EIO, "Input/output error")
            super().__init__(path)

    monkeypatch.setattr(zipfile, "ZipFile", Archive)
    train(spec, killed.path, cache_dir)
    assert resumed_from(killed) == KILLED_AT - 1


def test_too_little_memory_to_read_one_is_no_damage(
    killed: RunDir, spec: JobSpec, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_args: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MemoryError):
        train(spec, killed.path, cache_dir)
    assert killed.last_checkpoint.exists()


class TestBestWeights:
    """Of a job whose best weights are not its last."""

    @pytest.fixture
    def stopped(self, tmp_path: Path, cache_dir: Path, user_file: Path) -> tuple[JobSpec, RunDir, Result]:
        """A job that has ended, with the result it had."""
        spec = user_job(user_file, "Wobbling", options={"steps": 3 * STEPS}, epochs=5, optimizer=Adam(lr=3e-3))
        result = train(spec, tmp_path, cache_dir)
        assert result.best_epoch < 5
        return spec, RunDir(tmp_path), result

    def test_if_they_are_damaged_the_last_ones_are_tested_and_named_as_such(
        self, stopped: tuple[JobSpec, RunDir, Result], cache_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spec, files, before = stopped
        damage(files.best_checkpoint, DAMAGES["cut"])
        result = train(spec, files.path, cache_dir)
        last = read_metrics(files.metrics)[-1]
        assert (result.best_epoch, result.best_step) == (5, 5 * STEPS)
        assert result.best_validation_accuracy == last.validation_accuracy
        assert result.best_validation_accuracy != before.best_validation_accuracy
        assert "best.pt: damaged" in (said := capsys.readouterr().out)
        assert said.endswith(f"the last weights, of step {5 * STEPS}, are kept as the best\n")

    def test_the_last_ones_take_their_place_for_good(
        self, stopped: tuple[JobSpec, RunDir, Result], cache_dir: Path
    ) -> None:
        spec, files, _ = stopped
        damage(files.best_checkpoint, DAMAGES["cut"])
        result = train(spec, files.path, cache_dir)
        kept, last = saved(files.best_checkpoint)["network"], saved(files.last_checkpoint)["network"]
        assert identical(kept, last)
        assert train(spec, files.path, cache_dir) == result


def test_without_damage_nothing_is_said(tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(job(epochs=1), tmp_path, cache_dir)
    train(job(epochs=1), tmp_path, cache_dir)
    assert capsys.readouterr().out == ""
