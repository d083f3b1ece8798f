"""Decision boundaries drawn: panels, classes, lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet

from jobs.diagnostics.boundary import Boundary
from scheduler.pictures.boundary import boundary_figure
from scheduler.pictures.figure import colour, save

AT = np.linspace(-2, 2, 21, dtype=np.float32)


def boundary(classes: int = 2, sharpness: float = 4.0) -> Boundary:
    """Classes side by side along x; two change at x = 0."""
    centres = np.linspace(-1, 1, classes)
    likelihood = np.exp(-sharpness * (AT[None, :, None] - centres) ** 2 + 0 * AT[:, None, None])
    return Boundary(
        x=AT,
        y=AT,
        probabilities=(likelihood / likelihood.sum(axis=-1, keepdims=True)).astype(np.float32),
        points=np.stack([centres, 0 * centres], axis=-1).astype(np.float32),
        labels=np.arange(classes),
    )


def lines(axes: Axes) -> list[Any]:
    """The paths of what is drawn as a line, not filled."""
    drawn = [each for each in axes.collections if isinstance(each, QuadContourSet) and not each.filled]
    return [path for each in drawn for path in each.get_paths()]


@pytest.mark.parametrize(("boundaries", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (8, 2, 4)])
def test_each_boundary_has_a_panel_of_a_grid(boundaries: int, rows: int, columns: int) -> None:
    figure = boundary_figure([(f"depth {number}", boundary()) for number in range(boundaries)])
    panels = figure.axes[:-1]  # the last is the colour bar
    assert [axes.get_title() for axes in panels] == [f"depth {number}" for number in range(boundaries)]
    assert {axes.get_gridspec().get_geometry() for axes in panels} == {(rows, columns)}  # type: ignore[union-attr]


def test_all_axes_are_labelled() -> None:
    panel, bar = boundary_figure([("depth 8", boundary())]).axes
    assert (panel.get_xlabel(), panel.get_ylabel(), bar.get_ylabel()) == ("x", "y", "probability of class 1")


def test_the_colours_run_over_all_probabilities() -> None:
    panel, bar = boundary_figure([("unsure", boundary(sharpness=0.01))]).axes
    (filled,) = [each for each in panel.collections if isinstance(each, QuadContourSet) and each.filled]
    assert ((filled.norm.vmin, filled.norm.vmax), bar.get_ylim()) == ((0, 1), (0, 1))


def test_a_line_is_where_two_classes_are_as_probable() -> None:
    (line,) = lines(boundary_figure([("depth 8", boundary())]).axes[0])
    np.testing.assert_allclose(line.vertices[:, 0], 0, atol=1e-6)
    assert np.ptp(line.vertices[:, 1]) == 4


def test_lines_part_all_of_several_classes() -> None:
    drawn = lines(boundary_figure([("four", boundary(4))]).axes[0])
    crossings = np.unique(np.concatenate([line.vertices[:, 0] for line in drawn]).round(1) + 0.0)
    assert crossings.tolist() == [-0.7, 0, 0.7]


def test_a_network_that_always_says_the_same_has_no_line(tmp_path: Path) -> None:
    always = np.zeros((21, 21, 2), dtype=np.float32)
    always[..., 0] = 1
    sure = Boundary(x=AT, y=AT, probabilities=always, points=AT[:2, None].repeat(2, 1), labels=np.arange(2))
    figure = boundary_figure([("sure", sure)])
    save(figure, tmp_path / "sure.png")
    assert lines(figure.axes[0]) == []


def test_classes_differ_in_marker_and_colour() -> None:
    dots = boundary_figure([("four", boundary(4))]).axes[0].lines
    assert [len({dot.get_marker() for dot in dots}), len({dot.get_color() for dot in dots})] == [4, 4]


def test_each_point_is_drawn_as_its_class() -> None:
    dots = boundary_figure([("two", boundary())]).axes[0].lines
    assert [(dot.get_color(), list(dot.get_xdata())) for dot in dots] == [(colour(0), [-1]), (colour(1), [1])]


def test_the_legend_names_every_class_and_the_line() -> None:
    figure = boundary_figure([("two", boundary()), ("three", boundary(3))])
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["class 0", "class 1", "class 2", "where the decision changes"]


def test_several_classes_are_drawn_as_a_mixture_of_their_colours(tmp_path: Path) -> None:
    figure = boundary_figure([("three", boundary(3, sharpness=100))])
    save(figure, tmp_path / "three.png")
    left, _, right = (figure.axes[0].collections[0].get_facecolors()[column] for column in (5, 10, 15))  # type: ignore[attr-defined]
    assert left[2] > left[0]  # the first class is blue
    assert right[1] > right[0]  # the third is green


def test_a_picture_with_more_than_two_classes_has_no_bar_of_one_class_s_probability() -> None:
    assert len(boundary_figure([("three", boundary(3))]).axes) == 1
