"""The pictures of a training: curves and gradient flow, by what is drawn in them."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from msgspec.structs import replace

from jobs.errors import GpuqError, InputError
from jobs.run_dir import FlowLine, Metrics
from jobs.spec import TrainSpec
from scheduler.pictures.curves import Curves, counted_by, curves_figure, smoothed
from scheduler.pictures.figure import save
from scheduler.pictures.gradient_flow import MAX_LABELS, MAX_LINES, gradient_flow_figure


def lines(epochs: int) -> list[Metrics]:
    return [
        replace(metrics(n, accuracy=n / 200), train_loss=3.0 / n, validation_loss=4.0 / n) for n in range(1, epochs + 1)
    ]


def run(title: str = "3 vgg38", epochs: int = 4) -> Curves:
    return Curves(title=title, lines=lines(epochs))


def drawn(axes: Axes) -> list[tuple[str, str, list[float]]]:
    """Colour, style and heights of every curve."""
    return [
        (to_hex(line.get_color()), line.get_linestyle(), [float(y) for y in line.get_ydata()]) for line in axes.lines
    ]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_left_panel_shows_both_losses_and_the_right_one_both_accuracies_in_percent() -> None:
    loss, accuracy = curves_figure([run(epochs=2)]).axes
    assert [(style, heights) for _, style, heights in drawn(loss)] == [("--", [3.0, 1.5]), ("-", [4.0, 2.0])]
    assert [(style, heights) for _, style, heights in drawn(accuracy)] == [("--", [50.0, 50.0]), ("-", [0.5, 1.0])]


def test_the_axes_are_labelled_with_units() -> None:
    loss, accuracy = curves_figure([run()]).axes
    assert [axes.get_xlabel() for axes in (loss, accuracy)] == ["epoch", "epoch"]
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["cross entropy (nats)", "accuracy (%)"]


def test_a_job_has_one_colour_and_no_other_job_has_it() -> None:
    for axes in curves_figure([run("3 a"), run("4 b")]).axes:
        first, second, third, fourth = (colour for colour, _, _ in drawn(axes))
        assert first == second != third == fourth


def test_the_legend_names_the_jobs_and_what_dashes_mean() -> None:
    assert legend(curves_figure([run("3 a_$b$"), run("4 b")])) == ["3 a_$b$", "4 b", "training", "validation"]


def test_more_jobs_than_colours_are_told_apart_by_markers() -> None:
    figure = curves_figure([run(f"{number} job") for number in range(20)])
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 20


def test_a_job_of_one_line_is_visible() -> None:
    assert all(line.get_marker() not in (None, "None") for line in curves_figure([run(epochs=1)]).axes[0].lines)


def test_by_iteration_the_x_axis_counts_optimizer_steps() -> None:
    loss, _ = curves_figure([run(epochs=2)], by="iteration").axes
    assert loss.get_xlabel() == "iteration"
    assert [list(line.get_xdata()) for line in loss.lines] == [[100, 200], [100, 200]]


@pytest.mark.parametrize(
    ("trainings", "by"),
    [
        ([TrainSpec(epochs=5), TrainSpec(epochs=9)], "epoch"),
        ([TrainSpec(epochs=5), TrainSpec(iterations=900)], "iteration"),
        ([TrainSpec(epochs=5, evaluate_every=100)], "iteration"),
    ],
    ids=["epochs", "one in iterations", "several lines an epoch"],
)
def test_epochs_are_counted_where_every_job_has_a_line_for_each(trainings: Sequence[TrainSpec], by: str) -> None:
    assert counted_by(trainings) == by


def test_a_smoothed_curve_is_drawn_over_the_faint_one_that_was_measured() -> None:
    loss, _ = curves_figure([run(epochs=2)], ema=0.5).axes
    raw, smooth = loss.lines[2:]
    assert list(raw.get_ydata()) == [4.0, 2.0]
    assert list(smooth.get_ydata()) == pytest.approx(smoothed([4.0, 2.0], 0.5))
    assert raw.get_alpha() < 0.5
    assert smooth.get_alpha() is None


def test_the_legend_tells_how_curves_were_smoothed() -> None:
    assert legend(curves_figure([run()], ema=0.9))[-1] == "before smoothing (EMA 0.9)"


def test_smoothing_is_the_moving_average_corrected_for_its_start() -> None:
    # 0.5 · 4 / 0.5; then (0.5 · 2 + 0.5 · 2) / 0.75; then (0.5 · 2 + 0.5 · 8) / 0.875
    assert smoothed([4.0, 2.0, 8.0], 0.5) == pytest.approx([4.0, 2.0 / 0.75, 5.0 / 0.875])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_no_smoothing_changes_nothing(values: list[float]) -> None:
    assert smoothed(values, 0.0) == values


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 0.99))
def test_a_smoothed_value_lies_between_the_values_before_it(values: list[float], ema: float) -> None:
    for count, value in enumerate(smoothed(values, ema), start=1):
        assert min(values[:count]) - 1e-9 <= value <= max(values[:count]) + 1e-9


@pytest.mark.parametrize("ema", [-0.1, 1.0, math.nan])
def test_a_weight_that_is_none_is_refused(ema: float) -> None:
    with pytest.raises(InputError, match="ema: expected a number from 0 to below 1"):
        curves_figure([run()], ema=ema)


def test_a_job_without_a_line_is_refused_by_name() -> None:
    with pytest.raises(GpuqError, match=r"^4 b: has no metrics yet[^\n]*$"):
        curves_figure([run("3 a"), Curves(title="4 b", lines=[])])


def flow(epochs: int, layers: int = 3, **values: float | None) -> list[FlowLine]:
    """The gradient of layer i in epoch n is n · 10^-i; `values` replaces some."""
    names = [f"layer{place}.weight" for place in range(1, layers + 1)]
    return [
        FlowLine(
            epoch=epoch,
            step=100 * epoch,
            mean_absolute={name: epoch * 10.0**-place for place, name in enumerate(names, start=1)}
            | {f"{name}.weight": value for name, value in values.items()},
        )
        for epoch in range(1, epochs + 1)
    ]


def test_a_line_of_gradient_flow_runs_from_input_to_output() -> None:
    axes = gradient_flow_figure("3 vgg38", flow(epochs=2)).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3], [1, 2, 3]]
    assert [list(line.get_ydata()) for line in axes.lines] == [
        pytest.approx([0.1, 0.01, 0.001]),
        pytest.approx([0.2, 0.02, 0.002]),
    ]


def test_gradients_are_on_a_log_scale_and_it_says_so() -> None:
    axes = gradient_flow_figure("3 vgg38", flow(epochs=2)).axes[0]
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "mean absolute gradient (log scale)")


@pytest.mark.parametrize(("by", "first", "last"), [("epoch", 1, 9), ("iteration", 100, 900)])
def test_a_colour_bar_tells_when_a_line_was_recorded(by: str, first: float, last: float) -> None:
    figure = gradient_flow_figure("3 vgg38", flow(epochs=9), by=by)  # type: ignore[arg-type]
    bar = figure.axes[1]
    assert bar.get_ylabel() == by
    assert bar.get_ylim() == (first, last)


def test_lines_get_brighter_from_early_to_late() -> None:
    figure = gradient_flow_figure("3 vgg38", flow(epochs=9))
    brightness = [sum(line.get_color()[:3]) for line in figure.axes[0].lines]  # type: ignore[arg-type]
    assert brightness == sorted(brightness)
    assert brightness[0] < brightness[-1]


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.integers(MAX_LINES, 1000))
def test_of_many_lines_the_first_the_last_and_some_between_are_drawn(epochs: int) -> None:
    axes = gradient_flow_figure("3 vgg38", flow(epochs, layers=1)).axes[0]
    heights = [float(line.get_ydata()[0]) * 10 for line in axes.lines]  # type: ignore[index]
    assert len(set(heights)) == MAX_LINES
    assert (heights[0], heights[-1]) == pytest.approx((1, epochs))


def test_layers_are_named_as_far_as_there_is_room() -> None:
    few = gradient_flow_figure("3 mlp", flow(epochs=2, layers=2)).axes[0]
    many = gradient_flow_figure("4 resnet-110", flow(epochs=2, layers=110)).axes[0]
    assert [label.get_text() for label in few.get_xticklabels()] == ["layer1", "layer2"]
    assert MAX_LABELS / 2 <= len(many.get_xticks()) <= MAX_LABELS


@pytest.mark.parametrize("value", [0.0, None])
def test_what_has_no_logarithm_is_left_out_and_it_says_so(value: float | None) -> None:
    figure = gradient_flow_figure("3 vgg38", flow(epochs=1, layer2=value))
    heights = list(figure.axes[0].lines[0].get_ydata())
    assert [math.isnan(height) for height in heights] == [False, True, False]
    assert "no point where the gradient is zero or not finite" in figure.axes[0].get_xlabel()


def test_a_network_without_any_gradient_can_be_drawn(tmp_path: Path) -> None:
    save(gradient_flow_figure("3 dead", flow(epochs=1, layer1=0.0, layer2=0.0, layer3=0.0)), tmp_path / "dead.svg")


def test_where_nothing_is_left_out_nothing_is_said() -> None:
    assert gradient_flow_figure("3 vgg38", flow(epochs=1)).axes[0].get_xlabel() == "weight, input to output"


@pytest.mark.parametrize("lines", [[], flow(epochs=1, layers=0)], ids=["no line", "no weights"])
def test_a_job_that_recorded_no_gradients_is_refused_with_the_way_to_have_them(lines: list[FlowLine]) -> None:
    with pytest.raises(GpuqError, match=r"^3 vgg38: no gradient flow was recorded; .*gradient_flow = true"):
        gradient_flow_figure("3 vgg38", lines)


def test_a_loss_far_above_the_others_makes_the_scale_logarithmic() -> None:
    ordinary = curves_figure([run()]).axes[0]
    wild = Curves(title="4 wild", lines=[replace(line, validation_loss=1e4) for line in lines(1)] + lines(4)[1:])
    shared = curves_figure([run(epochs=9), wild]).axes[0]
    assert (ordinary.get_yscale(), shared.get_yscale()) == ("linear", "log")
    assert shared.get_ylabel() == "cross entropy (nats, log scale)"
