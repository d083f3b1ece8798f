"""Pictures of probes, and what all pictures share."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jobs.diagnostics.activations import LayerActivations
from jobs.diagnostics.gradients import GradientProbe, ParameterGradient, Verdict
from jobs.errors import InputError
from scheduler.pictures.figure import colour, legend_below, line_style, marker, new_figure, save
from scheduler.pictures.probes import MAX_LABELS, activations_figure, gradients_figure


def layer(name: str, kind: str = "conv", mean: float = 0.5, std: float = 1.0, zeros: float = 0.0) -> LayerActivations:
    return LayerActivations(name=name, kind=kind, mean=mean, std=std, min=-1.0, max=1.0, zeros=zeros)


def gradients(*norms: float, verdict: Verdict = Verdict.HEALTHY) -> GradientProbe:
    """A weight and a bias a layer, with gradients of these norms."""
    rows = [
        ParameterGradient(
            name=f"{index}.{kind}", shape=shape, gradient_norm=norm, mean_absolute=norm, weight_norm=2, ratio=norm / 2
        )
        for index, norm in enumerate(norms)
        for kind, shape in [("weight", (3, 3)), ("bias", (3,))]
    ]
    return GradientProbe(loss=1.0, verdict=verdict, parameters=tuple(rows))


def picture() -> Figure:
    return gradients_figure([("one", gradients(1e-3, 1)), ("two", gradients(1, 1, 1))])


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tick_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_picture_drawn_again_is_the_same_to_the_byte(name: str, tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        save(picture(), tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "begin"), [("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_name_decides_the_format(name: str, begin: bytes, tmp_path: Path) -> None:
    save(picture(), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["a.pdf", "a", ".png"])
def test_other_formats_are_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
        save(picture(), tmp_path / name)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*nowhere$"):
        save(picture(), tmp_path / "nowhere" / "a.png")


def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png: Is a directory$"):
        save(picture(), tmp_path / "a.png")


def test_colours_and_markers_tell_many_things_apart() -> None:
    assert len({colour(index) for index in range(7)}) == 7
    assert len({(colour(index), line_style(index)) for index in range(28)}) == 28
    assert len({(colour(index), marker(index)) for index in range(56)}) == 56


def test_a_name_is_shown_as_it_is_in_any_script(tmp_path: Path) -> None:
    figure = new_figure(4, 3)
    (line,) = figure.subplots().plot([1, 2])
    legend_below(figure, [("_net $x$ 網", line)])
    save(figure, tmp_path / "a.png")
    assert legend_texts(figure) == ["_net $x$ 網"]
    assert not figure.legends[0].get_texts()[0].get_parse_math()


@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_legend_takes_no_place_from_the_data(count: int) -> None:
    figure = new_figure(6, 3)
    axes = figure.subplots()
    legend_below(figure, [(f"a name of some length, number {i}", Line2D([], [])) for i in range(count)])
    FigureCanvasAgg(figure).draw()
    legend, box = figure.legends[0].get_window_extent(), axes.get_window_extent()
    assert legend.y1 < box.y0
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert box.height / figure.dpi > 2


def test_a_figure_without_entries_has_no_legend() -> None:
    figure = new_figure(4, 3)
    legend_below(figure, [])
    assert figure.legends == []


def test_each_network_has_its_outputs_and_its_zeros() -> None:
    figure = activations_figure([("one", [layer("a")]), ("two", [layer("b"), layer("c")])])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["output (mean ± std)", "zeros"] * 2
    assert [block.get_suptitle() for block in figure.subfigs] == ["one", "two"]


@pytest.mark.parametrize("count", [1, 4, 12])
def test_many_networks_stand_side_by_side(count: int) -> None:
    figure = activations_figure([(f"{i}", [layer("a")]) for i in range(count)])
    assert len(figure.axes) == 2 * count
    assert 0.3 < figure.get_figwidth() / figure.get_figheight() < 3


def test_layers_are_named_in_their_order() -> None:
    figure = activations_figure([("one", [layer("conv"), layer("act", "relu"), layer("fc", "linear")])])
    assert tick_labels(figure.axes[1]) == ["conv", "act", "fc"]


def test_zeros_are_percent() -> None:
    figure = activations_figure([("one", [layer("a", "relu", zeros=0.25), layer("b", "relu", zeros=0.5)])])
    heights = [(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in figure.axes[1].patches]
    assert heights == [(1, 25), (2, 50)]


def test_a_bar_reaches_one_standard_deviation_either_way() -> None:
    figure = activations_figure([("one", [layer("a", mean=3.0, std=0.5)])])
    (bars,) = figure.axes[0].collections[0].get_segments()
    assert bars.tolist() == [[1, 2.5], [1, 3.5]]


def test_dead_layers_are_marked() -> None:
    figure = activations_figure([("one", [layer("a", "relu"), layer("b", "relu", zeros=1.0)])])
    assert legend_texts(figure) == ["activation", "dead"]


@pytest.mark.parametrize("count", [61, 219])
def test_names_of_many_layers_are_thinned_out(count: int) -> None:
    figure = activations_figure([("deep", [layer(f"{i}") for i in range(count)])])
    axes = figure.axes[1]
    assert len(tick_labels(axes)) <= MAX_LABELS
    assert [f"{place - 1:.0f}" for place in axes.get_xticks()] == tick_labels(axes)


def test_labels_of_many_layers_do_not_overlap() -> None:
    figure = activations_figure([("deep", [layer(f"blocks.{i}.body.0.conv") for i in range(110)])])
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[1].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_activations_that_are_not_finite_leave_the_others_in_sight(value: float, tmp_path: Path) -> None:
    figure = activations_figure([("one", [layer("a"), layer("b", mean=value, std=value)])])
    save(figure, tmp_path / "a.png")
    assert figure.axes[0].get_ylim()[1] < 2


def test_a_line_a_network_with_a_point_a_weight() -> None:
    norms, ratios = picture().axes
    for axes in (norms, ratios):
        assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2], [1, 2, 3]]
        assert axes.get_yscale() == "log"
    assert list(norms.lines[0].get_ydata()) == [1e-3, 1]
    assert list(ratios.lines[0].get_ydata()) == [5e-4, 0.5]


def test_the_weights_of_a_network_alone_are_named() -> None:
    figure = gradients_figure([("one", gradients(1, 1, 1))])
    assert tick_labels(figure.axes[1]) == ["0", "1", "2"]
    assert [round(place) for place in figure.axes[1].get_xticks()] == [1, 2, 3]


def test_names_of_many_weights_do_not_overlap() -> None:
    figure = gradients_figure([("deep", gradients(*[1.0] * 110))])
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[1].get_xticklabels()]
    assert len(boxes) <= MAX_LABELS
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def test_the_weights_of_several_networks_are_numbered() -> None:
    assert picture().axes[1].get_xlabel() == "weight, numbered from input to output"


def test_the_legend_tells_the_verdict() -> None:
    figure = gradients_figure([("sigmoid", gradients(1e-9, 1, verdict=Verdict.VANISHING))])
    assert legend_texts(figure) == ["sigmoid (vanishing)"]


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_gradients_without_a_logarithm_leave_a_gap_and_a_word(norm: float, tmp_path: Path) -> None:
    figure = gradients_figure([("one", gradients(1, norm, 1))])
    save(figure, tmp_path / "a.png")
    norms, ratios = figure.axes
    assert math.isnan(norms.lines[0].get_ydata()[1])
    assert "zero or not finite" in ratios.get_xlabel()


def test_nothing_is_said_of_gaps_where_there_are_none() -> None:
    assert "zero" not in picture().axes[1].get_xlabel()


def test_a_network_whose_every_gradient_is_zero_can_be_drawn(tmp_path: Path) -> None:
    save(gradients_figure([("dead", gradients(0, 0))]), tmp_path / "a.png")


def test_every_weight_of_the_deepest_network_is_in_sight() -> None:
    figure = gradients_figure([("short", gradients(1, 1)), ("deep", gradients(*[1.0] * 110))])
    assert figure.axes[0].get_xlim() == (0.5, 110.5)
