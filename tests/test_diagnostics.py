"""`gpuq probe`, `gpuq plot` and `gpuq compare` over jobs that really ran, and over job files."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gpuq_process import Gpuq

from jobs.diagnostics.landscape import Landscape
from jobs.run_dir import RunDir, read_record
from scheduler.cli import main

POINTS = """
[model]
name = "mlp"
depth = 2
[data]
name = "spirals"
split = "official"
augment = "none"
[train]
iterations = 20
evaluate_every = 10
batch_size = 500
[schedule]
name = "constant"
[diagnostics]
gradient_flow = true
[resources]
memory = "1 GiB"
"""
IMAGES = """
[model]
name = "resnet-8"
width = 4
[data]
name = "shapes"
limit = 200
augment = "none"
[train]
epochs = 1
batch_size = 40
[schedule]
name = "constant"
[diagnostics]
landscape = true
landscape_grid = 3
landscape_images = 10
[resources]
memory = "1 GiB"
"""
PNG = b"\x89PNG"
POINTS_JOB, IMAGES_JOB, WAITING_JOB = "1", "2", "3"
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ran(shared_gpuq: Gpuq) -> Gpuq:
    """A job over points and one over images, both finished, and one that waits."""
    files = [shared_gpuq.write("points.toml", POINTS), shared_gpuq.write("images.toml", IMAGES)]
    done = shared_gpuq("run", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shared_gpuq("submit", "--no-start", files[0]).returncode == 0
    return shared_gpuq


@pytest.fixture
def told(ran: Gpuq, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Told:
    """Runs a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.setenv("GPUQ_HOME", str(ran.home.path))
    monkeypatch.chdir(tmp_path)

    def told(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return told


class TestProbe:
    def test_activations_of_a_job_are_a_row_a_layer(self, told: Told) -> None:
        code, out, _ = told("probe", "activations", POINTS_JOB)
        assert code == 0
        assert [line.split()[:2] for line in out.splitlines() if line[:1].isdigit() and "%" in line] == [
            ["1", "linear"],
            ["2", "relu"],
            ["3", "linear"],
            ["4", "relu"],
            ["5", "linear"],
        ]
        assert "no dead layers" in out

    def test_gradients_of_a_job_file_are_those_of_fresh_weights(self, told: Told, ran: Gpuq) -> None:
        _, trained, _ = told("probe", "gradients", POINTS_JOB, "--json")
        _, fresh, _ = told("probe", "gradients", ran.folder / "points.toml", "--json")
        one, other = (json.loads(text)["probes"][0] for text in (trained, fresh))
        assert [one["subject"], other["subject"]] == ["1 points", "points"]
        assert one["probe"]["loss"] < other["probe"]["loss"]
        names = [[row["name"] for row in probe["probe"]["parameters"]] for probe in (one, other)]
        assert names[0] == names[1] == [f"{layer}.{kind}" for layer in (1, 3, 5) for kind in ("weight", "bias")]

    def test_the_verdict_comes_with_its_rule(self, told: Told) -> None:
        _, out, _ = told("probe", "gradients", POINTS_JOB)
        assert "gradients: healthy" in out
        assert "vanishing: " in out

    @pytest.mark.parametrize("what", ["activations", "gradients"])
    def test_several_networks_share_a_picture(self, told: Told, what: str) -> None:
        code, _, err = told("probe", what, POINTS_JOB, IMAGES_JOB, "--out", "probe.png")
        assert (code, err) == (0, "wrote probe.png\n")
        assert Path("probe.png").read_bytes().startswith(PNG)

    def test_a_job_that_never_ran_is_one_line(self, told: Told) -> None:
        code, out, err = told("probe", "activations", WAITING_JOB)
        assert (code, out) == (1, "")
        assert err == (
            "gpuq: job 3 points has no checkpoint: it has not trained yet; its job file shows it with fresh weights\n"
        )

    def test_a_network_that_leaves_the_program_is_one_line(self, told: Told, ran: Gpuq) -> None:
        ran.write("leaves.py", "def build(classes, channels):\n    raise SystemExit(3)\n")
        file = ran.write("leaves.toml", IMAGES.replace('"resnet-8"\nwidth = 4', '"leaves.py:build"'))
        assert told("probe", "gradients", file) == (1, "", "gpuq: leaves: SystemExit: 3\n")

    def test_a_network_without_anything_to_train_is_named(self, told: Told, ran: Gpuq) -> None:
        ran.write(
            "empty.py",
            "from torch import nn\n\n\ndef build(classes, channels):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, classes).requires_grad_(False))\n",
        )
        file = ran.write("empty.toml", IMAGES.replace('"resnet-8"\nwidth = 4', '"empty.py:build"'))
        code, _, err = told("probe", "gradients", file)
        assert (code, err) == (1, "gpuq: empty: no parameter has a gradient: the network has nothing to train\n")

    def test_a_network_that_raises_is_one_line(self, told: Told, ran: Gpuq) -> None:
        ran.write(
            "raises.py", "import torch\n\n\ndef build(classes, channels):\n    return torch.nn.Linear(1, classes)\n"
        )
        file = ran.write("raises.toml", IMAGES.replace('"resnet-8"\nwidth = 4', '"raises.py:build"'))
        for what in (("probe", "gradients"), ("probe", "activations"), ("plot", "landscape")):
            code, out, err = told(*what, file)
            assert (code, out) == (1, "")
            assert err.splitlines()[-1].startswith("gpuq: raises: RuntimeError: ")


class TestPlot:
    def test_gradient_flow_of_a_job_that_recorded_it(self, told: Told) -> None:
        assert told("plot", "gradient-flow", POINTS_JOB)[0] == 0
        assert Path("gradient-flow-1.png").read_bytes().startswith(PNG)

    def test_gradient_flow_of_a_job_that_did_not_is_one_line(self, told: Told) -> None:
        code, _, err = told("plot", "gradient-flow", IMAGES_JOB)
        assert code == 1
        assert err == "gpuq: job 2 records no gradients: its file needs [diagnostics] gradient_flow = true\n"

    def test_curves_of_several_jobs_share_a_picture(self, told: Told) -> None:
        assert told("plot", "curves", "1-2", "--ema", "0.5", "--out", "curves.svg")[0] == 0
        assert Path("curves.svg").read_text().startswith("<?xml")

    def test_curves_of_a_job_without_metrics_are_one_line(self, told: Told) -> None:
        code, _, err = told("plot", "curves", WAITING_JOB)
        assert code == 1
        assert len(err.splitlines()) == 1
        assert "3 points" in err

    def test_accuracies_stand_against_a_key_of_the_job_files(self, told: Told) -> None:
        assert told("plot", "accuracy", POINTS_JOB, WAITING_JOB, "--out", "accuracy.png")[0] == 0
        assert Path("accuracy.png").read_bytes().startswith(PNG)

    def test_accuracies_of_jobs_without_metrics_are_one_line(self, told: Told) -> None:
        assert told("plot", "accuracy", WAITING_JOB)[::2] == (
            1,
            "gpuq: no job has metrics yet, so there is no accuracy to draw\n",
        )

    def test_a_boundary_is_drawn_over_points(self, told: Told, ran: Gpuq) -> None:
        assert told("plot", "boundary", POINTS_JOB, ran.folder / "points.toml", "--out", "boundary.png")[0] == 0
        assert Path("boundary.png").read_bytes().startswith(PNG)

    def test_a_boundary_of_an_image_network_is_one_line(self, told: Told) -> None:
        code, _, err = told("plot", "boundary", IMAGES_JOB)
        assert code == 1
        assert err == (
            "gpuq: 2 images: a boundary is drawn over points of the plane, such as spirals; shapes holds images\n"
        )

    def test_a_boundary_of_images_is_refused_before_they_are_read(self, told: Told, ran: Gpuq) -> None:
        file = ran.write("no_data.toml", IMAGES.replace('"shapes"', '"cifar10"\nroot = "nowhere"'))
        code, _, err = told("plot", "boundary", file)
        assert code == 1
        assert err.endswith("; cifar10 holds images\n")

    @pytest.mark.parametrize(
        ("out", "words"),
        [
            ("picture.gif", "ends in .png or .svg"),
            ("nowhere/picture.png", "there is no folder"),
            ("folder.png", "folder.png: Is a directory"),
        ],
    )
    def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
        self, told: Told, out: str, words: str
    ) -> None:
        Path("folder.png").mkdir()
        code, _, err = told("plot", "landscape", POINTS_JOB, "--out", out)
        assert code == 2
        assert words in err
        assert "rows of" not in err


class TestShow:
    @pytest.fixture(autouse=True)
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        opened: list[str] = []
        monkeypatch.setattr("click.launch", opened.append)
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        return opened

    @pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY"])
    def test_the_picture_is_opened_on_a_screen(
        self, told: Told, opened: list[str], monkeypatch: pytest.MonkeyPatch, screen: str
    ) -> None:
        monkeypatch.setenv(screen, ":0")
        assert told("plot", "curves", POINTS_JOB, "--out", "a.png", "--show")[0] == 0
        assert opened == ["a.png"]

    def test_without_a_screen_nothing_is_opened(self, told: Told, opened: list[str]) -> None:
        code, _, err = told("plot", "curves", POINTS_JOB, "--out", "a.png", "--show")
        assert (code, err) == (0, "wrote a.png\nthere is no screen to show it on\n")
        assert opened == []


class TestLandscape:
    def files(self, ran: Gpuq, job: str) -> RunDir:
        return ran.home.run_dir(int(job))

    def test_the_one_a_job_explored_after_training_is_drawn_as_it_is(self, told: Told, ran: Gpuq) -> None:
        explored = self.files(ran, IMAGES_JOB).landscape.read_bytes()
        code, out, err = told("plot", "landscape", IMAGES_JOB, "--out", "landscape.png")
        assert (code, err) == (0, "wrote landscape.png\n")
        assert [line.split()[:2] for line in out.splitlines()[:2]] == [["Landscape", "Loss"], ["2", "images"]]
        assert "3×3" in out
        assert Path("landscape.png").read_bytes().startswith(PNG)
        assert self.files(ran, IMAGES_JOB).landscape.read_bytes() == explored

    def test_its_centre_is_the_network_as_tested(self, ran: Gpuq) -> None:
        """Ten of the twenty test images: the loss is the mean over what was asked for."""
        landscape = read_record(self.files(ran, IMAGES_JOB).landscape, Landscape)
        assert landscape is not None
        assert (landscape.grid, landscape.images, landscape.complete) == (3, 10, True)
        assert landscape.evaluations_per_s > 0

    def test_a_job_without_one_gets_one_made_which_stays(self, told: Told, ran: Gpuq) -> None:
        code, _, err = told("plot", "landscape", POINTS_JOB, "--grid", "3", "--images", "50", "--out", "one.png")
        assert code == 0
        assert "rows of 3 evaluations" in err
        made = self.files(ran, POINTS_JOB).landscape.read_bytes()
        assert told("plot", "landscape", POINTS_JOB, "--out", "again.png")[2] == "wrote again.png\n"
        assert self.files(ran, POINTS_JOB).landscape.read_bytes() == made
        assert Path("again.png").read_bytes() == Path("one.png").read_bytes()

    def test_one_wanted_otherwise_does_not_replace_that_of_the_job(self, told: Told, ran: Gpuq) -> None:
        explored = self.files(ran, IMAGES_JOB).landscape.read_bytes()
        assert told("plot", "landscape", IMAGES_JOB, "--images", "5", "--out", "other.png")[0] == 0
        assert self.files(ran, IMAGES_JOB).landscape.read_bytes() == explored
        other = read_record(Path("other.2-images.json"), Landscape)
        assert other is not None
        assert other.images == 5

    def test_that_of_a_job_file_stays_beside_the_picture(self, told: Told, ran: Gpuq) -> None:
        assert told("plot", "landscape", ran.folder / "points.toml", "--grid", "3", "--out", "fresh.png")[0] == 0
        landscape = read_record(Path("fresh.points.json"), Landscape)
        assert landscape is not None
        assert landscape.images == 1000

    def test_of_a_job_without_a_checkpoint_it_is_one_line(self, told: Told) -> None:
        code, _, err = told("plot", "landscape", WAITING_JOB)
        assert code == 1
        assert "has no checkpoint: it has not trained yet" in err
        assert len(err.splitlines()) == 1


class TestCheckpointsThatCannotBeUsed:
    @pytest.fixture
    def spoil(self, ran: Gpuq) -> Any:
        """Puts something else in place of the best weights, for a while."""
        path = ran.home.run_dir(int(POINTS_JOB)).best_checkpoint
        good = path.read_bytes()
        yield path.write_bytes
        path.write_bytes(good)

    def test_one_of_another_version_is_one_line(self, told: Told, spoil: Callable[[bytes], int]) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save({"format": 1, "network": {}}, buffer)
        spoil(buffer.getvalue())
        code, _, err = told("probe", "gradients", POINTS_JOB)
        assert code == 1
        assert "best.pt: written by another version of gpuq, which can read it; without " in err
        assert len(err.splitlines()) == 1

    def test_a_damaged_one_is_one_line(self, told: Told, spoil: Callable[[bytes], int]) -> None:
        spoil(b"PK\x03\x04 no archive")
        code, _, err = told("plot", "boundary", POINTS_JOB)
        assert code == 1
        assert "best.pt: damaged" in err
        assert err.endswith("; remove it to look at last.pt\n")
        assert len(err.splitlines()) == 1


class TestRunDirectoriesThatAreGone:
    @pytest.fixture(autouse=True)
    def gone(self, ran: Gpuq) -> Iterator[None]:
        """Somebody removes a job's run directory, and puts it back."""
        path = ran.home.run_dir(int(POINTS_JOB)).path
        path.rename(path.with_name("elsewhere"))
        yield
        path.with_name("elsewhere").rename(path)

    @pytest.mark.parametrize(
        "what",
        [
            ("probe", "gradients"),
            ("plot", "boundary"),
            ("plot", "landscape"),
            ("plot", "curves"),
            ("plot", "gradient-flow"),
        ],
    )
    def test_that_is_what_is_said(self, told: Told, ran: Gpuq, what: tuple[str, str]) -> None:
        code, _, err = told(*what, POINTS_JOB)
        assert code == 1
        path = ran.home.run_dir(int(POINTS_JOB)).path
        assert (
            err == f"gpuq: job 1 points: {path} is not there, and with it all that it trained; submit its file again\n"
        )


class TestCompare:
    def test_json_holds_what_the_jobs_reached(self, told: Told, ran: Gpuq) -> None:
        rows = json.loads(told("compare", "1-3", "--json")[1])["jobs"]
        assert [(row["id"], row["network"]) for row in rows] == [(1, "mlp"), (2, "resnet-8"), (3, "mlp")]
        assert rows[0]["test_accuracy"] == ran.job(1)["test_accuracy"]
        assert rows[2]["train_accuracy"] is None

    def test_at_the_end_is_the_last_line(self, told: Told) -> None:
        (row,) = json.loads(told("compare", POINTS_JOB, "--at", "last", "--json")[1])["jobs"]
        assert row["step"] == 20

    def test_markdown_and_csv_are_for_documents(self, told: Told) -> None:
        markdown = told("compare", "1-2", "--markdown")[1].splitlines()
        assert [line[0] for line in markdown] == ["|"] * 4
        rows = list(csv.DictReader(io.StringIO(told("compare", "1-2", "--csv")[1])))
        assert [row["name"] for row in rows] == ["points", "images"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("probe", "gradients", "77"), "no job 77"),
        (("plot", "curves", "77"), "no job 77"),
        (("compare", "77"), "no job 77"),
        (("plot", "landscape", "2-1"), "2-1: not a range of ids"),
        (("probe", "activations", "1-999999999"), "1-999999999: not a range of ids"),
        (("probe", "gradients", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("plot", "accuracy", "1", "--against", "model.factor"), "--against model.factor: points has no such key"),
        (("plot", "curves", "points.toml"), "'points.toml' is not a job's id"),
        (("probe", "gradients", "1", "--device", "tpu"), "expected auto, cpu, cuda or cuda:INDEX, got 'tpu'"),
        (("probe", "gradients", "1", "--device", "cuda"), "cuda"),
        (("plot", "landscape", "1", "--span", "nan"), "--span: expected a finite number above 0, got nan"),
        (("plot", "landscape", "1", "--grid", "2"), "2 is not in the range"),
        (("plot", "landscape", "1", "--seed", str(2**63)), "is not in the range"),
        (("probe", "gradients", "1", "--show"), "--show needs --out"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(told: Told, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = told(*arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
