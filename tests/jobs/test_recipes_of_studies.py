"""The job files hold the studies' recipes: each row of a table has its job, and each value is the study's."""

from pathlib import Path

import pytest

from jobs.job_file import read_job_files
from jobs.schedule import ScheduleState, length, rate
from jobs.spec import Adam, Constant, Cosine, DataSpec, JobSpec, Sgd

JOBS = Path(__file__).parents[2] / "jobs"
CIFAR10 = 50_000  # training images


def jobs(folder: str) -> list[JobSpec]:
    return [spec for _, spec in read_job_files(sorted((JOBS / folder).glob("*.toml")))]


def rows(folder: str, *options: str) -> set[tuple[object, ...]]:
    """Each job's network, and these of its options."""
    return {(spec.model.name, *(spec.model.options.get(name) for name in options)) for spec in jobs(folder)}


def rates(spec: JobSpec, *steps: int) -> list[float]:
    """The learning rates of the steps after so many others."""
    whole = length(spec.train, -(-CIFAR10 // spec.train.batch_size))
    return [rate(spec.schedule, spec.optimizer.lr, ScheduleState(), whole, step) for step in steps]


def scaled(data: DataSpec) -> tuple[object, ...]:
    return data.name, data.split, data.augment, data.pixel_range, data.mean, data.std


class TestAlexnetToResnet:
    def test_each_row_has_a_job(self) -> None:
        names = {"alexnet", "vggnet", "vggnet-bn", "deep-vggnet-bn", "resnet", "resnet-deeper"}
        assert rows("alexnet-to-resnet") == {(name,) for name in names}

    @pytest.mark.parametrize("spec", jobs("alexnet-to-resnet"), ids=lambda spec: spec.name)
    def test_the_recipe(self, spec: JobSpec) -> None:
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        assert scaled(spec.data) == ("cifar10", "official", "crop-flip", 1, mean, std)
        assert (spec.train.epochs, spec.train.batch_size, spec.train.seed) == (10, 128, 42)
        assert spec.optimizer == Adam(lr=1e-3, weight_decay=5e-4)
        assert spec.schedule == Constant()


class TestVgg:
    def test_each_row_has_a_job(self) -> None:
        found = {(name, *options, spec.optimizer.lr) for spec in jobs("vgg") for name, *options in [self.row(spec)]}
        assert found == {
            ("vgg08", False, False, 1e-3),
            ("vgg38", False, False, 1e-3),
            ("vgg38", True, False, 1e-3),
            ("vgg38", False, True, 1e-3),
            ("vgg38", True, True, 1e-3),
            ("vgg38", True, False, 1e-2),
            ("vgg38", True, True, 1e-2),
        }

    def row(self, spec: JobSpec) -> tuple[str, bool, bool]:
        return spec.model.name, spec.model.options.get("bn", False), spec.model.options.get("rc", False)

    @pytest.mark.parametrize("spec", jobs("vgg"), ids=lambda spec: spec.name)
    def test_the_recipe(self, spec: JobSpec) -> None:
        assert scaled(spec.data)[:3] == ("cifar100", (0.95, 0.05), "crop-flip")
        assert (spec.train.epochs, spec.train.batch_size) == (100, 100)
        assert spec.optimizer == Adam(lr=spec.optimizer.lr)
        assert spec.schedule == Cosine()
        assert spec.diagnostics.gradient_flow


class TestSpirals:
    @pytest.mark.parametrize("folder", ["spirals", "spirals/at-initialisation"])
    def test_all_points_make_a_batch_for_networks_of_width_20(self, folder: str) -> None:
        for spec in jobs(folder):
            assert (spec.data.name, spec.train.batch_size, spec.train.seed) == ("spirals", 1000, 42)
            assert spec.model.options["width"] == 20

    def test_gradients_at_initialisation(self) -> None:
        depths = {("mlp", "sigmoid", depth) for depth in (4, 8, 16, 32)} | {
            ("mlp", "relu", depth) for depth in (4, 8, 16, 32)
        }
        assert rows("spirals/at-initialisation", "activation", "depth") == depths

    def test_activations(self) -> None:
        specs = [spec for spec in jobs("spirals") if spec.name.startswith("activations")]
        kinds = ["sigmoid", "relu", "leaky_relu", "gelu", "prelu", "elu", "silu"]
        assert [spec.model.options["activation"] for spec in specs] == kinds
        assert {spec.model.options["depth"] for spec in specs} == {8}
        assert [(spec.optimizer, spec.schedule, spec.train.iterations) for spec in specs] == [
            (Adam(lr=5e-3), Constant(), 3000)
        ] * 7

    def test_degradation(self) -> None:
        specs = [spec for spec in jobs("spirals") if spec.name.startswith("degradation")]
        assert [spec.model.options["depth"] for spec in specs] == [4, 8, 16, 32]
        sgd = Sgd(lr=0.01, momentum=0.9, nesterov=False)
        recipe = [(spec.optimizer, spec.schedule, spec.train.iterations, spec.train.evaluate_every) for spec in specs]
        assert recipe == [(sgd, Constant(), 5000, 10)] * 4

    def test_plain_against_residual(self) -> None:
        specs = [spec for spec in jobs("spirals") if spec.name.startswith("plain-residual")]
        pairs = [(spec.model.name, spec.model.options["blocks"]) for spec in specs]
        assert pairs == [(name, blocks) for name in ("mlp-plain", "mlp-residual") for blocks in (2, 5, 10, 25)]
        assert [(spec.optimizer, spec.schedule, spec.train.iterations) for spec in specs] == [
            (Adam(lr=1e-3), Cosine(), 3000)
        ] * 8


DEEP = [spec for spec in jobs("resnet-plainnet") if spec.model.name != "cnn"]
RATES = {"resnet-110": (0.01, 0.1), "plainnet-110": (1e-4, 1e-3)}  # of the first 400 iterations, and after them


class TestResnetAgainstPlainnet:
    def test_each_row_has_a_job(self) -> None:
        networks = {f"{family}-{depth}" for family in ("resnet", "plainnet") for depth in (20, 56, 110)}
        assert rows("resnet-plainnet") == {(name,) for name in networks | {"cnn"}}

    @pytest.mark.parametrize("spec", DEEP, ids=lambda spec: spec.model.name)
    def test_the_recipe(self, spec: JobSpec) -> None:
        assert scaled(spec.data) == ("cifar10", "official", "crop-flip", 255, (125, 123, 114), (1, 1, 1))
        assert (spec.train.iterations, spec.train.evaluate_every, spec.train.batch_size) == (64_000, 100, 128)
        assert spec.optimizer == Sgd(lr=spec.optimizer.lr, momentum=0.9, nesterov=False, weight_decay=1e-4)
        assert spec.diagnostics.landscape

    @pytest.mark.parametrize("spec", DEEP, ids=lambda spec: spec.model.name)
    def test_the_rates_by_iteration(self, spec: JobSpec) -> None:
        first, then = RATES.get(spec.model.name, (0.1, 0.1))
        expected = [first, first, then, then, then / 10, then / 10, then / 100, then / 100]
        assert rates(spec, 0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999) == pytest.approx(expected)

    def test_the_cnn(self) -> None:
        (spec,) = (spec for spec in jobs("resnet-plainnet") if spec.model.name == "cnn")
        assert scaled(spec.data) == ("cifar10", "official", "none", 1, (0, 0, 0), (1, 1, 1))
        assert (spec.train.epochs, spec.train.batch_size) == (50, 32)
        assert (spec.optimizer, spec.schedule) == (Adam(lr=1e-3), Cosine())
