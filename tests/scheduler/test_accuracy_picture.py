"""Accuracies against a key of the job files: where a job stands, and how that is drawn."""

from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jobs.errors import GpuqError, InputError
from jobs.spec import Adam, JobSpec, ModelSpec, TrainSpec
from scheduler.against import Place, Value, places
from scheduler.pictures.accuracy import Reached, accuracy_figure


def job(name: str, **options: object) -> JobSpec:
    return JobSpec(name="job", model=ModelSpec(name=name, options=options))


def standing(key: str, *specs: JobSpec) -> list[tuple[Value, str]]:
    return [(place.value, place.series) for place in places(specs, key)]


def reached(*values: Value, series: str = "mlp", train: float = 0.9, validation: float = 0.8) -> list[Reached]:
    return [Reached(place=Place(value=value, series=series), train=train, validation=validation) for value in values]


def ticks(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_xticklabels()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


class TestWhereAJobStands:
    def test_a_value_that_the_file_leaves_out_is_the_network_s_default(self) -> None:
        assert standing("model.depth", job("mlp"), job("mlp", depth=16)) == [(8, "mlp"), (16, "mlp")]

    def test_the_depth_in_a_network_s_name_is_a_depth(self) -> None:
        specs = job("resnet-20"), job("resnet-56"), job("plainnet-20")
        assert standing("model.depth", *specs) == [(20, "resnet"), (56, "resnet"), (20, "plainnet")]

    def test_options_in_which_jobs_differ_tell_their_lines_apart(self) -> None:
        specs = job("vgg38"), job("vgg38", bn=True), job("vgg38", rc=True)
        assert standing("model.bn", *specs) == [
            (False, "vgg38, rc false"),
            (True, "vgg38, rc false"),
            (False, "vgg38, rc true"),
        ]

    def test_keys_of_other_tables_will_do(self) -> None:
        spec = JobSpec(name="job", model=ModelSpec(name="cnn"), optimizer=Adam(lr=0.01), train=TrainSpec(seed=7))
        assert standing("optimizer.lr", spec) == [(0.01, "cnn")]
        assert standing("optimizer.name", spec) == [("adam", "cnn")]
        assert standing("train.seed", spec) == [(7, "cnn")]

    def test_options_of_a_network_of_one_s_own_are_as_the_file_has_them(self) -> None:
        assert standing("model.layers", job("net.py:build", layers=3)) == [(3, "net.py:build")]

    def test_against_the_network_all_jobs_stand_on_one_line(self) -> None:
        assert standing("model.name", job("vggnet"), job("vggnet-bn")) == [("vggnet", ""), ("vggnet-bn", "")]

    @pytest.mark.parametrize("key", ["", "model", "model.dept", "data.split", "nowhere.at_all", "model.depth.more"])
    def test_a_key_without_one_value_is_refused(self, key: str) -> None:
        with pytest.raises(InputError, match=r"^--against .*: job has no such key with one value; [^\n]*$"):
            places([job("mlp")], key)


class TestThePicture:
    def test_numbers_stand_by_size_and_are_joined(self) -> None:
        figure = accuracy_figure("model.depth", reached(32, 4, 8))
        assert ticks(figure) == ["4", "8", "32"]
        assert [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() != "None"] == [
            [0, 1, 2]
        ] * 2

    def test_words_stand_as_they_come_and_are_not_joined(self) -> None:
        figure = accuracy_figure("model.activation", reached("sigmoid", "relu"))
        assert ticks(figure) == ["sigmoid", "relu"]
        assert {line.get_linestyle() for line in figure.axes[0].lines} == {"None"}

    def test_accuracies_are_percent_and_the_axes_say_so(self) -> None:
        (axes,) = accuracy_figure("model.depth", reached(4)).axes
        assert [list(line.get_ydata()) for line in axes.lines[::2]] == [[pytest.approx(90)], [pytest.approx(80)]]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("model.depth", "accuracy (%)")

    def test_a_line_goes_through_the_mean_of_several_seeds(self) -> None:
        jobs = reached(4, train=0.5) + reached(4, train=0.7)
        line, points = accuracy_figure("model.depth", jobs).axes[0].lines[:2]
        assert list(line.get_ydata()) == [pytest.approx(60)]
        assert list(points.get_ydata()) == [pytest.approx(50), pytest.approx(70)]

    def test_the_legend_names_the_series_and_the_kinds_of_points(self) -> None:
        figure = accuracy_figure("model.blocks", reached(2, series="mlp-plain") + reached(2, series="mlp-residual"))
        assert legend(figure) == ["mlp-plain", "mlp-residual", "training", "validation"]

    def test_long_values_do_not_overlap(self) -> None:
        figure = accuracy_figure("model.name", reached(*(f"a-network-of-some-name-{i}" for i in range(12))))
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))

    def test_without_a_job_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(GpuqError, match="no job has metrics yet"):
            accuracy_figure("model.depth", [])
