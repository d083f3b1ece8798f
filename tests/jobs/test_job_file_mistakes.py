"""Job files with mistakes: every error they hold, one line each. Mutated files are in tests/test_fuzz.py."""

from pathlib import Path

import pytest
from job_files import RESV1, Write, errors, jobs

from augment import catalog
from jobs.errors import InputError
from jobs.job_file import MAX_FILE_BYTES, read_job_files

# Text after `[model] name = "resv1"`, and how the only line begins.
MISTAKES = {
    "widht = 8": 'model.widht: unknown key; did you mean "width"?',
    "width = 0": "model.width must be at least 1, got 0",
    'width = "8"': "model.width: expected int, got str",
    "blocks = [1, 2]": "model.blocks must be 4 counts",
    "[trian]": 'trian: unknown key; did you mean "train"?',
    "[train]\nepoch = 3": 'train.epoch: unknown key; did you mean "epochs"?',
    "[train]\nqqq = 3": "train.qqq: unknown key; allowed: epochs, iterations, evaluate_every, batch_size, seed, prec",
    "[train]\nepochs = 0": "train.epochs: expected int >= 1, got 0",
    "[train]\nepochs = 1.5": "train.epochs: expected int, got float",
    "[train]\nepochs = true": "train.epochs: expected int, got bool",
    "[train]\nseed = -1": "train.seed: expected int >= 0, got -1",
    "[train]\nseed = 9223372036854775808": "train.seed: expected an integer of 64 bits at most",
    '[train]\nprecision = "fp16"': 'train.precision: unknown value "fp16"; did you mean "bf16"?',
    '[train]\ncheckpoint_every = "soon"': "train.checkpoint_every: expected a duration such as",
    "[train]\nbatch_size = 40001": "train.batch_size: 40001 is larger than the 40000 training images",
    '[data]\nname = "cifar"': 'data.name: unknown value "cifar"; did you mean "cifar10"?',
    '[data]\naugment = "hard1"': 'data.augment: unknown value "hard1"; did you mean "hard',
    "[data]\naugment = 3": "data.augment: expected str, got int",
    "[data]\nsplit = [0.8, 0.1, 0.2]": "data.split: the parts must sum to 1, these sum to 1.1",
    "[data]\nsplit = [1.0]": 'data.split: expected "official", or the fractions of training, validation',
    "[data]\nsplit = [0.8, 0.2, 0.0]": "data.split: each part needs a fraction above 0",
    "[data]\nmean = [0.5]": "data.mean: 1 values for 3 channels",
    "[data]\nstd = [0.5, 0.5, 0]": "data.std: expected float > 0.0",
    "[data]\npixel_range = 256": "data.pixel_range: expected 1 or 255, got 256",
    '[data]\nname = "spirals"\naugment = "none"': "model.name: resv1 takes images, spirals are points; networks for",
    "[train]\niterations = 3\nepochs = 3": "train.iterations: training is counted in epochs or in iterations, ",
    '[train]\ncheckpoint_every = "0 epochs"': 'train.checkpoint_every: expected a duration such as "30s" or "5m"',
    "[schedule]\nwarmup_iterations = 3": "schedule.warmup_iterations: in place of warmup_epochs, which is 5",
    '[schedule]\nname = "cosine"\nwarmup_lr = 0.1': "schedule.warmup_lr: needs warmup_epochs or warmup_iterations",
    "[diagnostics]\nlandscape_grid = 2": "diagnostics.landscape_grid: expected int >= 3, got 2",
    "[data]\nsplit = [1.1, 0.1, -0.2]": "data.split: expected float <= 1.0",
    '[data]\nsplit = "offical"': 'data.split: unknown value "offical"; did you mean "official"?',
    "[data]\nsplit = [0.99999, 0.000005, 0.000005]": "data.split: leaves 0 images for validation",
    "[data]\nsplit = [5e-324, 0.5, 0.5]": "train.batch_size: 256 is larger than the 0 training images",
    "[data]\nlimit = 0": "data.limit: expected int >= 1, got 0",
    "[data]\nlimit = 300": "train.batch_size: 256 is larger than the 240 training images",
    '[data]\nname = "shapes"\nimage_size = 64': "data.image_size: shapes has 32 pixels",
    '[data]\nroot = "~no-such-user/data"': "data.root: ",
    '[data]\nroot = "a\\u0000b"': "data.root: embedded null byte",
    '[data]\nname = "imagefolder"\nroot = "none"': "data.root: ",
    '[optimizer]\nname = "sdg"': 'optimizer.name: unknown optimizer "sdg"; did you mean "sgd"?',
    "[optimizer]\nname = 3": "optimizer.name: unknown optimizer 3; allowed: sgd, adam, adamw",
    "[optimizer]\nlr = 0": "optimizer.lr: expected float > 0.0, got 0",
    "[optimizer]\nlr = nan": "optimizer.lr: expected a finite number, got nan",
    "[optimizer]\nweight_decay = inf": "optimizer.weight_decay: expected a finite number, got inf",
    "[optimizer]\nmomentum = 1": "optimizer.momentum: expected float < 1.0, got 1",
    "[optimizer]\nmomentum = 0": "optimizer.nesterov: needs a momentum above 0",
    '[optimizer]\nname = "adam"\nmomentum = 0.9': "optimizer.momentum: unknown key; allowed: lr, betas, weight_decay",
    '[optimizer]\nname = "adam"\nbetas = [0.9, 1.0]': "optimizer.betas: expected float < 1.0",
    '[schedule]\nname = "step"': 'schedule.name: unknown schedule "step"; did you mean "steps"?',
    "[schedule]\nwarmup_epochs = 201": "schedule.warmup_epochs: 201 is longer than the training of 200 epochs",
    "[train]\niterations = 784": "schedule.warmup_epochs: 5 is longer than the training of 784 iterations",
    '[train]\nepochs = 2\n[schedule]\nname = "cosine"\nwarmup_iterations = 315': (
        "schedule.warmup_iterations: 315 is longer than the training of 2 epochs (train.epochs), of 157 iter"
    ),
    "[data]\nlimit = 1000\n[train]\niterations = 19": "schedule.warmup_epochs: 5 is longer than the training of 19",
    "[schedule]\nfactor = 1": "schedule.factor: expected float < 1.0, got 1",
    "[schedule]\nmin_lr = 0.05": "schedule: the lowest rate 0.05 is not below optimizer.lr 0.05",
    '[schedule]\nname = "cosine"\npatience = 3': "schedule.patience: unknown key; allowed: warmup_epochs, warmup_",
    '[schedule]\nname = "steps"\nmilestones = [20, 10]': "schedule.milestones: expected epochs or iterations in rising",
    '[resources]\nmemory = "much"': 'resources.memory: expected a size such as "6 GiB"',
    "[resources]\nmemory = 6": "resources.memory: expected str",
    "[resources]\nthreads = 0": "resources.threads: expected int >= 1, got 0",
    "[limits]\ntime = 6": "limits.time: expected str",
    '[limits]\ntime = "0h"': "limits.time: expected a duration above 0, got '0h'",
    '[limits]\nhang = "never"': 'limits.hang: expected a duration such as "30s", "90m" or "6h"',
    "day = 2026-11-21": "model.day: dates and times are of no use",
}
# Whole files, and how the only line begins.
WRONG_FILES = {
    "": 'model.name: missing; for example [model] name = "resv1"',
    "model = 3": "model.name: missing",
    '[model]\nname = "resv2"': "model.name: unknown network 'resv2'; did you mean 'resv1'?",
    '[model]\nname = "torchvision:resnet81"': "model.name: unknown network 'torchvision:resnet81'; did you mean",
    '[model]\nname = "none.py:build"': "model.name: cannot read ",
    '[model]\nname = "a:b"': "model.name: no model is called 'a:b': expected a network's name, torchvision:NAME or",
    '[model]\nname = "~x:y"': "model.name: no model is called '~x:y'",
    f"data = 3\n{RESV1}": "data: expected a table, got 3",
    f"data = [1]\n{RESV1}": "data: expected a table, got [1]",
    f"schedule = true\n{RESV1}": "schedule: expected a table, got true",
    f"[[train]]\n[[train]]\n{RESV1}": "train: expected a table, got [",
    f'priority = "high"\n{RESV1}': 'priority: expected a whole number up to a million, got "high"',
    f"priority = true\n{RESV1}": "priority: expected a whole number",
    f"priority = 1000001\n{RESV1}": "priority: expected a whole number",
    f"name = 3\n{RESV1}": "name: expected letters, digits",
    f'"two\\nlines" = 3\n{RESV1}': "two\\nlines: unknown key; allowed: name, priority, model",
    f"{RESV1}name = ": "not TOML: ",
    f"{RESV1}{RESV1}": "not TOML: ",
    f"{RESV1}[train]\nepochs = {'9' * 5000}": "not TOML: ",
    f"{RESV1}a = {'[' * 20000}": "not TOML: ",
    f"{RESV1}a = {'[' * 30}{']' * 30}": "model.a: nested more than 16 deep",
    f"{RESV1}{'a.' * 2000}a = 1": "model.a: nested more than 16 deep",
}


class TestMistakes:
    @pytest.mark.parametrize(("text", "line"), MISTAKES.items(), ids=MISTAKES)
    def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(self, write: Write, text: str, line: str) -> None:
        (told,) = errors(write(f"{RESV1}{text}\n"))
        assert told.startswith(f"job.toml: {line}")

    @pytest.mark.parametrize(("text", "line"), WRONG_FILES.items(), ids=range(len(WRONG_FILES)))
    def test_a_file_of_another_form_is_one_line(self, write: Write, text: str, line: str) -> None:
        (told,) = errors(write(text))
        assert told.startswith(f"job.toml: {line}")

    def test_a_file_that_is_not_text_is_refused_with_the_place(self, write: Write) -> None:
        assert errors(write(b'name = "\xff"')) == ["job.toml: not UTF-8 text (byte 8)"]

    def test_a_huge_file_is_refused_unread(self, write: Write) -> None:
        (line,) = errors(write(b"#" * (MAX_FILE_BYTES + 1)))
        assert line == f"job.toml: larger than {MAX_FILE_BYTES} bytes: not a job file"

    @pytest.mark.parametrize(("name", "reason"), [("none.toml", "No such file or directory"), (".", "Is a directory")])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(InputError, match=f"cannot be read: {reason}"):
            read_job_files([tmp_path / name])

    def test_all_errors_of_all_files_are_told_at_once(self, write: Write) -> None:
        first = write('[model]\nname = "resv9"\n[train]\nepochs = 3\nbatch = 4\n[data]\nsplit = [1, 1, 1]\n', "a.toml")
        second = write("[oops]\n", "b.toml")
        third = write(RESV1, "c.toml")
        assert [line.split(": ")[:2] for line in errors(first, second, third)] == [
            ["a.toml", "model.name"],
            ["a.toml", "data.split"],
            ["a.toml", "train.batch"],
            ["b.toml", "oops"],
            ["b.toml", "model.name"],
        ]

    def test_sections_that_are_right_are_held_against_each_other_whatever_the_others(self, write: Write) -> None:
        text = '[model]\nname = "resv9"\n[train]\nepochs = 3\n[optimizer]\nlr = 1e-8\n'
        told = [line.split(": ")[1] for line in errors(write(text))]
        assert told == ["model.name", "schedule.warmup_epochs", "schedule"]

    @pytest.mark.parametrize(
        "text",
        [
            "[train]\niterations = 785",  # 5 epochs of 157
            "[data]\nlimit = 1000\n[train]\niterations = 20",
            '[train]\nepochs = 2\n[schedule]\nname = "cosine"\nwarmup_iterations = 314',
        ],
    )
    def test_a_warmup_may_take_all_of_the_training(self, write: Write, text: str) -> None:
        assert len(jobs(write(f"{RESV1}{text}\n"))) == 1

    def test_paths_with_control_characters_stay_on_one_line(self, write: Write) -> None:
        (line,) = errors(write("", "two\nlines\x1b[31m.toml"))
        assert line.startswith("two\\nlines\\x1b[31m.toml: model.name: missing")

    def test_a_path_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "\udcff"
        folder.mkdir()
        file = folder / "a.toml"
        file.write_text(f'{RESV1}[data]\nroot = "beside"\n')
        (line,) = errors(file)
        assert ": data.root: expected a path in UTF-8, got " in line


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two classes of ten files that are never opened."""
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for number in range(10):
                (tmp_path / "pictures" / name / f"{number}.png").touch()
        return tmp_path / "pictures"

    def text(self, batch_size: int, more: str = "") -> str:
        data = f'[data]\nname = "imagefolder"\nroot = "pictures"\n{more}'
        return f"{RESV1}{data}[train]\nbatch_size = {batch_size}\n"

    @pytest.mark.usefixtures("folder")
    def test_a_batch_may_be_as_large_as_the_training_part(self, write: Write) -> None:
        assert len(jobs(write(self.text(16)))) == 1
        (line,) = errors(write(self.text(17)))
        assert line == "job.toml: train.batch_size: 17 is larger than the 16 training images"

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize("batch_size", [10**6, 2**63 - 1])
    def test_the_largest_batch_is_refused_like_any_other(self, write: Write, batch_size: int) -> None:
        (line,) = errors(write(self.text(batch_size)))
        assert f"train.batch_size: {batch_size} is larger than the 16 training images" in line

    @pytest.mark.usefixtures("folder")
    def test_each_part_needs_an_image(self, write: Write) -> None:
        (line,) = errors(write(self.text(4, "split = [0.99, 0.005, 0.005]\n")))
        assert "data.split: leaves 0 images for validation and 0 for test; each needs one" in line

    @pytest.mark.usefixtures("folder")
    def test_an_official_split_needs_a_test_folder(self, write: Write) -> None:
        (line,) = errors(write(self.text(4, 'split = "official"\n')))
        assert 'data.split: "official" needs a test/ folder beside train/' in line

    def test_a_single_class_folder_is_refused(self, write: Write, folder: Path) -> None:
        folder.rename(folder.with_name("cats and dogs"))
        folder.mkdir()
        folder.with_name("cats and dogs").rename(folder / "cats and dogs")
        (line,) = errors(write(self.text(4)))
        assert line.startswith(f'job.toml: data.root: {folder} has one class folder, "cats and dogs": ')

    def test_images_are_counted_no_further_than_a_batch_needs(
        self, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        image_files = catalog.image_files

        def watched(path: str | Path) -> object:
            for file in image_files(path):
                seen.append(file.name)
                yield file

        monkeypatch.setattr(catalog, "image_files", watched)
        for number in range(10, 300):
            (folder / "cat" / f"{number}.png").touch()
        assert len(jobs(write(self.text(4)))) == 1
        assert len(seen) < 20

    def test_a_folder_name_too_long_for_the_system_is_one_line(self, write: Write) -> None:
        (line,) = errors(write(f'{RESV1}[data]\nname = "imagefolder"\nroot = "{"x" * 5000}"\n'))
        assert line.startswith("job.toml: data.root: ")
