"""Landscapes drawn: what is on the axes, which colours mean which losses, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from jobs.diagnostics.landscape import Landscape, LandscapeSettings
from jobs.errors import GpuqError
from scheduler.pictures.figure import save
from scheduler.pictures.landscape import landscape_figure, landscapes_figure, scale_of

INFINITE = None  # as a landscape has it


def landscape(loss: Callable[[float, float], float | None], grid: int = 7) -> Landscape:
    at = LandscapeSettings(grid=grid).coordinates
    return Landscape(grid=grid, images=10, losses=[[loss(alpha, beta) for beta in at] for alpha in at])


def bowl(scale: float = 1.0) -> Landscape:
    """From `scale` in the middle to three times as much in the corners."""
    return landscape(lambda alpha, beta: scale * (1 + alpha**2 + beta**2))


STEEP = landscape(lambda alpha, beta: 0.1 * 10 ** (2 * max(abs(alpha), abs(beta))))  # 0.1 to 10


def contours(figure: Figure) -> list[QuadContourSet]:
    return [drawn for axes in figure.axes for drawn in axes.collections if isinstance(drawn, QuadContourSet)]


def surfaces(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.name == "3d"]


def colour_bar(figure: Figure) -> Any:
    return figure.axes[-1]


def test_colours_of_a_narrow_range_are_linear() -> None:
    scale = scale_of([bowl().surface()])
    assert (scale.low, scale.top, scale.logarithmic, scale.cut) == (1, 3, False, False)


def test_colours_of_a_wide_range_are_logarithmic() -> None:
    scale = scale_of([STEEP.surface()])
    assert scale.logarithmic
    assert (scale.low, scale.top, scale.cut) == (pytest.approx(0.1), pytest.approx(10), False)


def test_shades_are_evenly_spaced_in_the_logarithm_of_a_wide_range() -> None:
    shades = np.array(scale_of([STEEP.surface()]).shades)
    np.testing.assert_allclose(shades[1:] / shades[:-1], 100 ** (1 / 40), rtol=1e-9)


def test_losses_far_beyond_the_lowest_are_cut_off_at_a_power_of_ten() -> None:
    scale = scale_of([np.array([[0.3, 5.0, 1e9]])])
    assert (scale.top, scale.label) == (1000, "mean loss (cut off at 1000)")


def test_a_loss_that_is_not_finite_is_drawn_as_the_highest() -> None:
    surface = np.array([[1.0, 2.0, np.nan]])
    scale = scale_of([surface])
    assert (scale.drawn(surface).tolist(), scale.label) == ([[1, 2, 2]], "mean loss (cut off at 2)")


def test_losses_down_to_nothing_do_not_break_the_logarithm() -> None:
    surface = np.array([[0.0, 1e-12, 2.0]])
    scale = scale_of([surface])
    assert scale.drawn(surface).tolist() == [[0.001, 0.001, 2]]
    assert np.isfinite(scale.height(scale.drawn(surface))).all()


@pytest.mark.parametrize(("low", "top"), [(1.0, 3.0), (0.3, 4.0), (0.17, 90.0), (0.2, 1e3), (2.3, 2.31), (1e-3, 9)])
def test_lines_are_several_round_losses_between_lowest_and_highest(low: float, top: float) -> None:
    lines = scale_of([np.array([[low, top]])]).lines
    assert 4 <= len(lines) <= 12
    assert all(low < line < top for line in lines)
    assert max(len(f"{line:g}") for line in lines) <= 7


def test_a_landscape_is_drawn_as_contours_and_as_a_surface() -> None:
    figure = landscape_figure("resnet-56", bowl())
    assert [axes.name for axes in figure.axes] == ["rectilinear", "3d", "rectilinear"]
    assert figure.axes[0].get_title() == "resnet-56"


def test_all_axes_are_labelled() -> None:
    flat, solid, bar = landscape_figure("resnet-56", bowl()).axes
    assert (flat.get_xlabel(), flat.get_ylabel()) == ("α, along the first direction", "β, along the second direction")
    assert (solid.get_xlabel(), solid.get_ylabel(), solid.get_zlabel()) == ("α", "β", "mean loss")  # type: ignore[attr-defined]
    assert bar.get_ylabel() == "mean loss"


def test_alpha_runs_to_the_right_in_the_contours() -> None:
    _, lines = contours(landscape_figure("slope", landscape(lambda alpha, _: 2 + alpha)))
    across = [np.ptp(path.vertices, axis=0) for path in lines.get_paths()]
    assert all(x == pytest.approx(0, abs=1e-9) and y == 2 for x, y in across)


def test_alpha_and_beta_are_the_surface_s_first_and_second_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Axes3D, "plot_surface", lambda _, *coordinates, **__: drawn.extend(coordinates))
    landscape_figure("slope", landscape(lambda alpha, beta: 4 + 2 * alpha + beta))
    x, y, z = drawn
    np.testing.assert_allclose(z, 4 + 2 * x + y)


def test_contour_lines_carry_their_losses() -> None:
    axes = landscape_figure("steep", STEEP).axes[0]
    assert {text.get_text() for text in axes.texts} <= {"0.2", "0.5", "1", "2", "5"}
    assert axes.texts


def test_no_label_of_a_contour_is_cut_off_by_the_edge() -> None:
    """A steep bowl: its highest contours are short arcs in the corners, with no room for a label."""
    figure = landscape_figure("bowl", landscape(lambda alpha, beta: 10 ** (alpha**2 + beta**2), grid=11))
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    shown = [text.get_window_extent() for text in axes.texts if text.get_visible()]
    assert shown
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in shown)
    assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in shown)


def test_the_network_itself_is_marked_in_the_middle() -> None:
    figure = landscape_figure("bowl", bowl())
    (mark,) = figure.axes[0].lines
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0], [0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the network itself"]


def test_several_landscapes_have_a_row_each() -> None:
    figure = landscapes_figure([("resnet-56", bowl()), ("plainnet-56", STEEP), ("cnn", bowl(2))])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["resnet-56", "plainnet-56", "cnn"]
    assert len(surfaces(figure)) == 3


def test_the_same_colours_stand_for_the_same_losses_in_all_rows() -> None:
    figure = landscapes_figure([("low", bowl(0.5)), ("high", bowl(1.5))])
    assert {(drawn.norm.vmin, drawn.norm.vmax) for drawn in contours(figure) if drawn.filled} == {(0.5, 4.5)}
    assert colour_bar(figure).get_ylim() == pytest.approx((0.5, 4.5))


def test_contours_are_coloured_by_the_scale_s_logarithm() -> None:
    filled, _ = contours(landscape_figure("steep", STEEP))
    assert filled.norm(1.0) == pytest.approx(0.5)  # half-way from 0.1 to 10


def test_surfaces_of_all_rows_are_as_high_for_the_same_losses() -> None:
    figure = landscapes_figure([("low", bowl(0.1)), ("high", STEEP)])
    assert [axes.get_zlim() for axes in surfaces(figure)] == [pytest.approx((-1, 1))] * 2  # powers of ten


def test_the_third_axis_shows_losses_not_logarithms() -> None:
    (solid,) = surfaces(landscape_figure("steep", STEEP))
    assert [solid.zaxis.get_major_formatter()(height, 0) for height in (-1, 0, 1)] == ["0.1", "1", "10"]


@pytest.mark.parametrize(
    "odd",
    [
        landscape(lambda *_: math.log(10)),  # a network that has learned nothing
        landscape(lambda *_: 0.0),
        landscape(lambda alpha, beta: INFINITE if alpha == beta == 1 else 1e-9 + alpha**2),
        landscape(lambda alpha, beta: 1e150 ** (alpha**2 + beta**2) if alpha * beta else 0.5, grid=4),
    ],
)
def test_any_landscape_is_drawn_without_a_warning(odd: Landscape, tmp_path: Path) -> None:
    save(landscape_figure("odd", odd), tmp_path / "odd.png")


def test_the_shades_of_an_svg_are_one_image_without_seams(tmp_path: Path) -> None:
    save(landscape_figure("bowl", bowl()), tmp_path / "bowl.svg")
    assert (tmp_path / "bowl.svg").read_text().count("<image ") == 2  # the other is the colour bar's


def test_a_title_is_shown_as_it_is() -> None:
    assert not landscape_figure("cost $5 or $6", bowl()).axes[0].title.get_parse_math()


def test_a_landscape_that_is_not_complete_is_refused_by_name() -> None:
    begun = Landscape(grid=3, images=1, losses=[[1.0, 2.0, 3.0]])
    with pytest.raises(GpuqError, match="plainnet-56: only 1 of the landscape's 3 rows"):
        landscapes_figure([("resnet-56", bowl()), ("plainnet-56", begun)])


def test_a_landscape_without_a_finite_loss_is_refused_by_name() -> None:
    with pytest.raises(GpuqError, match="lost: the landscape has no finite loss"):
        landscape_figure("lost", landscape(lambda *_: INFINITE))
