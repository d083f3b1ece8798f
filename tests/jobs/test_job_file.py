"""Job files: every job they ask for, or every error they hold, one line each."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from augment import catalog
from augment.catalog import POLICY_NAMES
from jobs import job_file
from jobs.errors import InputError
from jobs.job_file import MAX_COMBINATIONS, MAX_FILE_BYTES, read_job_files
from jobs.spec import DataSpec, JobSpec, ModelSpec, Sgd, encode

RESV1 = '[model]\nname = "resv1"\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a job file, job.toml unless told otherwise."""

    def write(text: str | bytes, name: str = "job.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def jobs(*paths: Path) -> list[JobSpec]:
    return [job for _, job in read_job_files(paths)]


def errors(*paths: Path) -> list[str]:
    """The lines of the InputError, without the files' folder."""
    with pytest.raises(InputError) as caught:
        read_job_files(paths)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return [line.removeprefix(f"{paths[0].parent}/") for line in caught.value.lines]


def names(specs: Sequence[JobSpec]) -> list[str]:
    return [spec.name for spec in specs]


class TestValid:
    def test_a_network_s_name_alone_is_a_job_with_the_study_s_values(self, write: Write) -> None:
        data = DataSpec(root=str(Path("~/datasets").expanduser().resolve()))
        assert jobs(write(RESV1, "night.toml")) == [JobSpec(name="night", model=ModelSpec(name="resv1"), data=data)]

    def test_an_empty_section_changes_nothing(self, write: Write) -> None:
        empty = "[data]\n[train]\n[optimizer]\n[schedule]\n[resources]\n[matrix]\n"
        assert jobs(write(RESV1 + empty)) == jobs(write(RESV1))

    def test_every_key_of_the_documented_example_is_taken(self, write: Write) -> None:
        text = """
            name = "resv1-easy"
            priority = 3
            [model]
            name = "resv1"
            width = 16
            blocks = [1, 1, 2, 2]
            [data]
            name = "cifar100"
            root = "data"
            split = "official"
            limit = 5000
            augment = "hard2"
            [train]
            epochs = 20
            batch_size = 128
            seed = 7
            precision = "fp32"
            [optimizer]
            name = "sgd"
            lr = 1
            momentum = 0.8
            nesterov = false
            [schedule]
            name = "plateau"
            warmup_epochs = 2
            factor = 0.1
            patience = 1
            min_lr = 1e-6
            [resources]
            memory = "2 GiB"
            threads = 2
        """
        (job,) = jobs(write(text))
        assert (job.name, job.priority) == ("resv1-easy", 3)
        assert job.model == ModelSpec(name="resv1", options={"width": 16, "blocks": [1, 1, 2, 2]})
        assert (job.data.name, job.data.split, job.data.limit, job.data.augment) == (
            "cifar100",
            "official",
            5000,
            "hard2",
        )
        assert (job.train.epochs, job.train.batch_size, job.train.seed, job.train.precision) == (20, 128, 7, "fp32")
        assert job.optimizer == Sgd(lr=1.0, momentum=0.8, nesterov=False)
        assert (job.schedule.warmup_epochs, job.resources.memory_bytes) == (2, 2**31)

    @pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
    def test_an_optimizer_is_chosen_by_its_name(self, write: Write, name: str) -> None:
        (job,) = jobs(write(f'{RESV1}[optimizer]\nname = "{name}"\n'))
        assert json.loads(encode(job))["optimizer"]["name"] == name

    @pytest.mark.parametrize("name", ["plateau", "cosine", "steps", "constant"])
    def test_a_schedule_is_chosen_by_its_name_and_takes_a_warmup(self, write: Write, name: str) -> None:
        (job,) = jobs(write(f'{RESV1}[schedule]\nname = "{name}"\nwarmup_epochs = 3\n'))
        assert json.loads(encode(job))["schedule"]["name"] == name
        assert job.schedule.warmup_epochs == 3

    def test_jobs_come_in_the_order_of_the_files(self, write: Write) -> None:
        files = [write(RESV1, "b.toml"), write(RESV1, "a.toml")]
        assert [(path.name, job.name) for path, job in read_job_files(files)] == [("b.toml", "b"), ("a.toml", "a")]

    def test_the_project_s_own_job_files_are_valid(self) -> None:
        files = sorted(Path(job_file.__file__).parent.rglob("*.toml"))
        assert files
        assert len(jobs(*files)) >= len(files)


class TestPaths:
    def test_a_relative_root_is_relative_to_the_job_file(self, write: Write, tmp_path: Path) -> None:
        (job,) = jobs(write(RESV1 + '[data]\nroot = "../data"\n'))
        assert job.data.root == str(tmp_path.parent / "data")

    def test_an_absolute_root_stays(self, write: Write) -> None:
        (job,) = jobs(write(RESV1 + '[data]\nroot = "/data"\n'))
        assert job.data.root == "/data"

    def test_a_tilde_is_the_home(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        (job,) = jobs(write(RESV1 + '[data]\nroot = "~/pictures"\n'))
        assert job.data.root == "/home/somebody/pictures"

    def test_a_user_s_file_is_relative_to_the_job_file(self, write: Write, tmp_path: Path) -> None:
        write("def build(classes, channels): ...", "net.py")
        (job,) = jobs(write('[model]\nname = "net.py:build"\ndepth = 3\n'))
        assert job.model == ModelSpec(name=f"{tmp_path / 'net.py'}:build", options={"depth": 3})

    def test_a_user_s_file_is_not_run(self, write: Write) -> None:
        write("raise RuntimeError\ndef build(classes, channels): ...", "net.py")
        assert len(jobs(write('[model]\nname = "net.py:build"\n'))) == 1


class TestNames:
    def test_the_default_is_the_file_s_stem(self, write: Write) -> None:
        assert names(jobs(write(RESV1, "my net (2).toml"))) == ["my-net-2"]

    @pytest.mark.parametrize("name", ["a/b", "a\\nb", "", " a", "-a", "a" * 101, "naïve", "..", "a\\u001b[31m"])
    def test_a_name_that_could_not_stand_in_a_table_or_a_path_is_refused(self, write: Write, name: str) -> None:
        (line,) = errors(write(f'name = "{name}"\n{RESV1}'))
        assert line.startswith("job.toml: name: expected letters, digits")


class TestMatrix:
    def test_there_is_one_job_a_combination_and_the_last_key_turns_fastest(self, write: Write) -> None:
        text = RESV1 + '[matrix]\n"data.augment" = ["none", "easy"]\n"train.seed" = [0, 1]\n'
        specs = jobs(write(text, "night.toml"))
        assert names(specs) == ["night-none-seed0", "night-none-seed1", "night-easy-seed0", "night-easy-seed1"]
        values = [(spec.data.augment, spec.train.seed) for spec in specs]
        assert values == [("none", 0), ("none", 1), ("easy", 0), ("easy", 1)]

    def test_it_overrides_what_the_section_says(self, write: Write) -> None:
        text = RESV1 + '[train]\nseed = 5\nepochs = 7\n[matrix]\n"train.seed" = [0]\n'
        assert [(spec.train.seed, spec.train.epochs) for spec in jobs(write(text))] == [(0, 7)]

    def test_it_may_run_over_networks_and_their_options(self, write: Write) -> None:
        text = '[model]\nname = "bn4"\n[matrix]\n"model.name" = ["bn4", "bn8"]\n"model.width" = [8, 16]\n'
        specs = jobs(write(text))
        assert names(specs) == ["job-bn4-width8", "job-bn4-width16", "job-bn8-width8", "job-bn8-width16"]
        assert {spec.model.options["width"] for spec in specs} == {8, 16}

    def test_it_may_name_the_only_networks(self, write: Write) -> None:
        assert names(jobs(write('[matrix]\n"model.name" = ["resv1", "deb"]\n'))) == ["job-resv1", "job-deb"]

    def test_it_may_run_over_options_of_a_user_s_builder(self, write: Write) -> None:
        write("def build(classes, channels, depth): ...", "net.py")
        specs = jobs(write('[model]\nname = "net.py:build"\n[matrix]\n"model.depth" = [1, 2]\n'))
        assert [spec.model.options for spec in specs] == [{"depth": 1}, {"depth": 2}]

    def test_its_values_may_be_lists_and_priorities(self, write: Write) -> None:
        text = RESV1 + '[matrix]\n"data.split" = [[0.5, 0.25, 0.25], "official"]\npriority = [1, 2]\n'
        specs = jobs(write(text))
        assert [(spec.data.split, spec.priority) for spec in specs[1:3]] == [((0.5, 0.25, 0.25), 2), ("official", 1)]

    def test_names_stay_names_whatever_the_values(self, write: Write) -> None:
        write("def build(classes, channels): ...", "my net.py")
        text = '[model]\nname = "x"\n[matrix]\n"model.name" = ["my net.py:build", "torchvision:resnet18"]\n'
        assert names(jobs(write(text))) == ["job-my-net.py-build", "job-torchvision-resnet18"]

    @pytest.mark.parametrize(
        ("matrix", "line"),
        [
            ('"train.sed" = [1]', 'matrix."train.sed": names no key of a job; did you mean "seed"?'),
            ('"trian.seed" = [1]', 'matrix."trian.seed": names no key of a job; did you mean "train.seed"?'),
            ('"model.widht" = [1]', 'matrix."model.widht": names no key of a job; did you mean "width"?'),
            ('"train.seed" = 1', 'matrix."train.seed": expected a list of values, got 1'),
            ('"train.seed" = []', 'matrix."train.seed": expected a list of values, got []'),
            ("train = {seed = [1]}", 'matrix."train": expected a list of values, got '),
            ('"data" = [1]', 'matrix."data": names no key of a job'),
            ('name = ["a", "b"]', 'matrix."name": names no key of a job'),
        ],
    )
    def test_a_key_or_value_that_cannot_be_is_one_line(self, write: Write, matrix: str, line: str) -> None:
        (told,) = errors(write(f"{RESV1}[matrix]\n{matrix}\n"))
        assert told.startswith(f"job.toml: {line}")

    @pytest.mark.parametrize("matrix", ["matrix = 1", "matrix = [1]", 'matrix = "data"'])
    def test_it_must_be_a_table(self, write: Write, matrix: str) -> None:
        (line,) = errors(write(f"{matrix}\n{RESV1}"))
        assert line.startswith("job.toml: matrix: expected a table of lists, got ")

    def test_an_impossible_value_is_told_once_not_once_a_combination(self, write: Write) -> None:
        text = RESV1 + '[matrix]\n"data.augment" = ["esy", "none"]\n"train.seed" = [0, 1, 2]\n'
        assert errors(write(text)) == ['job.toml: data.augment: unknown value "esy"; did you mean "easy"?']

    def test_one_impossible_combination_refuses_the_file(self, write: Write) -> None:
        text = RESV1 + '[matrix]\n"train.epochs" = [3, 200]\n'
        (line,) = errors(write(text))
        assert "schedule.warmup_epochs: 5 is longer than the training of 3 epochs" in line

    def test_too_many_combinations_are_refused_before_they_are_made(self, write: Write) -> None:
        seeds = list(range(MAX_COMBINATIONS))
        text = f'{RESV1}[matrix]\n"train.seed" = {seeds}\n"train.epochs" = {seeds}\n"train.batch_size" = {seeds}\n'
        assert errors(write(text)) == [f"job.toml: matrix: more than {MAX_COMBINATIONS} combinations in one file"]

    def test_as_many_as_allowed_are_taken(self, write: Write) -> None:
        text = f'{RESV1}[matrix]\n"train.seed" = {list(range(MAX_COMBINATIONS))}\n'
        assert len(jobs(write(text))) == MAX_COMBINATIONS


# Text after `[model] name = "resv1"`, and how the only line begins.
MISTAKES = {
    "widht = 8": 'model.widht: unknown key; did you mean "width"?',
    "width = 0": "model.width must be at least 1, got 0",
    'width = "8"': "model.width: expected int, got str",
    "blocks = [1, 2]": "model.blocks must be 4 counts",
    "[trian]": 'trian: unknown key; did you mean "train"?',
    "[train]\nepoch = 3": 'train.epoch: unknown key; did you mean "epochs"?',
    "[train]\nqqq = 3": "train.qqq: unknown key; allowed: epochs, batch_size, seed, precision, checkpoint_every",
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
    "[data]\nsplit = [0.8, 0.1, 0.2]": "data.split: the three parts must sum to 1, these sum to 1.1",
    "[data]\nsplit = [0.8, 0.2]": "data.split: expected array of length 3, got 2",
    "[data]\nsplit = [0.8, 0.2, 0.0]": "data.split: training, validation and test each need a part above 0",
    "[data]\nsplit = [1.1, 0.1, -0.2]": "data.split: expected float <= 1.0",
    '[data]\nsplit = "offical"': 'data.split: unknown value "offical"; did you mean "official"?',
    "[data]\nsplit = [0.99999, 0.000005, 0.000005]": "data.split: leaves 0 images for validation",
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
    "[schedule]\nfactor = 1": "schedule.factor: expected float < 1.0, got 1",
    "[schedule]\nmin_lr = 0.05": "schedule: the lowest rate 0.05 is not below optimizer.lr 0.05",
    '[schedule]\nname = "cosine"\npatience = 3': "schedule.patience: unknown key; allowed: warmup_epochs, final_lr",
    '[schedule]\nname = "steps"\nmilestones = [20, 10]': "schedule.milestones: expected epochs in rising order",
    '[resources]\nmemory = "much"': 'resources.memory: expected a size such as "6 GiB"',
    "[resources]\nmemory = 6": "resources.memory: expected str",
    "[resources]\nthreads = 0": "resources.threads: expected int >= 1, got 0",
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

    def test_paths_with_control_characters_stay_on_one_line(self, write: Write) -> None:
        (line,) = errors(write("", "two\nlines\x1b[31m.toml"))
        assert line.startswith("two\\nlines\\x1b[31m.toml: model.name: missing")


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


NASTY = [
    "3", "-1", "0", "1e400", "nan", "-inf", "true", '""', '"x"', "[]", "[1]", "{}", "{a = 1}", "1979-05-27", "07:32:00",
    "9223372036854775808", "0x" + "f" * 5000, '"\\u0000"', '"a\\nb"', '"../../x.py:f"', '"~x:y"', '"torchvision:"',
    "[[[[]]]]", '["none", 3, []]', "5e-324", '"imagefolder"', '"official"', "[5e-324, 0.5, 0.5]",
    '"' + "9" * 400 + ' GiB"',
]  # fmt: skip
WHOLE = """name = "a"
priority = 1
[model]
name = "bn4"
width = 8
blocks = [1, 1, 1, 1]
[data]
name = "shapes"
root = "data"
split = [0.8, 0.1, 0.1]
limit = 500
augment = "easy"
[train]
epochs = 9
batch_size = 16
seed = 4
precision = "auto"
checkpoint_every = "1m"
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
[schedule]
name = "steps"
milestones = [2, 3]
warmup_epochs = 1
[resources]
memory = "1 GiB"
threads = 1
[matrix]
"data.augment" = ["none", "easy"]
"train.seed" = [1, 2]
"""


def mutated(chance: random.Random) -> bytes:
    """The whole file with a few values, lines or bytes changed."""
    lines = WHOLE.splitlines()
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(lines))
        key, equals, _ = lines[at].partition(" = ")
        match chance.randrange(5):
            case 0 | 1 if equals:
                lines[at] = f"{key} = {chance.choice(NASTY)}"
            case 2:
                lines[at] = chance.choice(lines)
            case 3:
                del lines[at]
            case _:
                raw = bytearray(lines[at], "utf-8") or bytearray(b"x")
                raw[chance.randrange(len(raw))] = chance.randrange(128)
                lines[at] = raw.decode()
    content = "\n".join(lines).encode()
    return content if chance.random() < 0.9 else content[: chance.randrange(len(content))] + b"\xc3"


def test_whatever_is_in_a_file_comes_out_as_jobs_or_as_lines(write: Write) -> None:
    chance = random.Random(0)
    accepted, refused = 0, []
    for _ in range(400):
        try:
            accepted += sum(1 for job in jobs(write(mutated(chance))) if encode(job))
        except InputError as error:
            refused.append(error.lines)
    assert accepted > 20
    assert len(refused) > 200
    assert all(lines for lines in refused)
    assert all(line.startswith(f"{write(WHOLE)}: ") and line.isprintable() for lines in refused for line in lines)


def test_every_policy_of_the_catalogue_is_a_value_of_augment(write: Write) -> None:
    text = f'{RESV1}[matrix]\n"data.augment" = {json.dumps(POLICY_NAMES)}\n'
    assert [spec.data.augment for spec in jobs(write(text))] == list(POLICY_NAMES)


def test_reading_job_files_imports_neither_torch_nor_numpy(write: Write) -> None:
    """Of any kind: submitting must take milliseconds."""
    write("def build(classes, channels): ...", "net.py")
    kinds = ["resv1", "torchvision:resnet18", "net.py:build"]
    path = write(f'[matrix]\n"model.name" = {json.dumps(kinds)}\n')
    code = (
        "import sys; from pathlib import Path; from jobs.job_file import read_job_files\n"
        "assert len(read_job_files([Path(sys.argv[1])])) == 3\n"
        "print(*sorted({'torch', 'torchvision', 'numpy', 'kornia'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
