"""Job files: every job they ask for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from job_files import RESV1, Write, errors, jobs, names

from augment.catalog import POLICY_NAMES
from jobs import job_file
from jobs.job_file import MAX_COMBINATIONS, read_job_files
from jobs.spec import DataSpec, JobSpec, ModelSpec, Sgd, encode


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
            [limits]
            time = "6h"
            hang = "30m"
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
        assert (job.limits.time_s, job.limits.hang_s) == (21_600, 1800)

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
