"""The commands that look at what was trained: `gpuq probe`, `gpuq plot`, `gpuq compare`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from scheduler.cli_options import current_home, ids_argument, json_option, print_json
from scheduler.cli_types import flatten
from scheduler.home import Home

if TYPE_CHECKING:
    from scheduler.comparison import At, Form

Report = TypeVar("Report")

subjects_argument = click.argument("subjects", nargs=-1, required=True, metavar="ID|FILE...")
out_option = click.option("--out", type=click.Path(path_type=Path), help="The picture's file, .png or .svg.")
show_option = click.option("--show", is_flag=True, help="Open the picture, where there is a screen.")
# The CPU unless told otherwise: on the GPU, what a diagnostic takes is not reserved, and a running job may lack it.
look_device_option = click.option(
    "--device", default="cpu", show_default=True, metavar="DEVICE", help="Where to compute: cpu, cuda or cuda:INDEX."
)


@click.group()
def probe() -> None:
    """Look into networks on one batch: a job's best weights by its id, or fresh ones by a job file."""


@probe.command()
@subjects_argument
@json_option
@out_option
@show_option
@look_device_option
def activations(subjects: tuple[str, ...], as_json: bool, out: Path | None, show: bool, device: str) -> None:
    """Mean, spread, range and zeros of every layer's output; dead layers by name."""
    from scheduler import probes

    _tell(probes.probe_activations, probes.show_activations, subjects, as_json, out, show, device)


@probe.command()
@subjects_argument
@json_option
@out_option
@show_option
@look_device_option
def gradients(subjects: tuple[str, ...], as_json: bool, out: Path | None, show: bool, device: str) -> None:
    """Gradient and weight norms of every parameter, and whether gradients vanish or explode."""
    from scheduler import probes

    _tell(probes.probe_gradients, probes.show_gradients, subjects, as_json, out, show, device)


def _tell(
    probe: Callable[[Home, Sequence[str], str, Path | None], Sequence[Report]],
    show_tables: Callable[[Sequence[Report]], None],
    subjects: Sequence[str],
    as_json: bool,
    out: Path | None,
    show: bool,
    device: str,
) -> None:
    if show and out is None:
        raise click.UsageError("--show needs --out")
    reports = probe(current_home(), subjects, device, out)
    if as_json:
        print_json({"probes": reports})
    else:
        show_tables(reports)
    if out is not None:
        _said(out, show)


@click.group()
def plot() -> None:
    """Draw pictures of what was trained, as .png or .svg; without --out into the current folder."""


@plot.command("gradient-flow")
@click.argument("job_id", type=int, metavar="ID")
@out_option
@show_option
def gradient_flow(job_id: int, out: Path | None, show: bool) -> None:
    """Mean absolute gradients from layer to layer, a line an epoch; of a job with [diagnostics] gradient_flow."""
    from scheduler import plots

    _said(plots.plot_gradient_flow(current_home(), job_id, out), show)


@plot.command()
@ids_argument
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Smooth by an exponential moving average of this weight.",
)
@out_option
@show_option
def curves(ids: tuple[range, ...], ema: float, out: Path | None, show: bool) -> None:
    """Loss and accuracy of training and validation, several jobs in one picture."""
    from scheduler import plots

    _said(plots.plot_curves(current_home(), flatten(ids), ema, out), show)


@plot.command()
@ids_argument
@click.option("--against", default="model.depth", show_default=True, metavar="KEY", help="A key of the job files.")
@click.option(
    "--at",
    type=click.Choice(["best", "last"]),
    default="last",
    show_default=True,
    help="At the best validation accuracy, or at the end.",
)
@out_option
@show_option
def accuracy(ids: tuple[range, ...], against: str, at: "At", out: Path | None, show: bool) -> None:
    """What jobs reached, against their depth or another key of their files."""
    from scheduler import plots

    _said(plots.plot_accuracy(current_home(), flatten(ids), against, at, out), show)


@plot.command()
@subjects_argument
@out_option
@show_option
@look_device_option
def boundary(subjects: tuple[str, ...], out: Path | None, show: bool, device: str) -> None:
    """Decision boundaries over the data, for networks that take points of the plane."""
    from scheduler import plots

    _said(plots.plot_boundaries(current_home(), subjects, device, out), show)


@plot.command()
@subjects_argument
@click.option("--grid", type=click.IntRange(3, 501), help="Points a side; 25 by default.")
@click.option(
    "--span", type=click.FloatRange(0, min_open=True), help="The coordinates go from −span to span; 1 by default."
)
@click.option("--images", type=click.IntRange(1), help="How many images of the test part; all by default.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the random directions; 42 by default.")
@out_option
@show_option
@look_device_option
def landscape(
    subjects: tuple[str, ...],
    grid: int | None,
    span: float | None,
    images: int | None,
    seed: int | None,
    out: Path | None,
    show: bool,
    device: str,
) -> None:
    """The loss around the weights, along two random directions that are normalised per filter.

    A job's grid is kept in its run directory: it is computed once, and goes on where it was stopped.
    """
    from scheduler import plots
    from scheduler.landscapes import Wanted

    wanted = Wanted(grid=grid, span=span, images=images, seed=seed)
    _said(plots.plot_landscapes(current_home(), subjects, wanted, device, out), show)


@click.command()
@ids_argument
@click.option(
    "--at",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Training and validation at the best validation accuracy, or at the end.",
)
@click.option("--markdown", "form", flag_value="markdown", help="A table for a document.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@json_option
def compare(ids: tuple[range, ...], at: "At", form: "Form | None", as_json: bool) -> None:
    """Jobs side by side: parameters, accuracies and losses, time, peak memory."""
    from scheduler import comparison

    rows = comparison.compare(current_home(), flatten(ids), at)
    if as_json:
        print_json({"jobs": rows})
    else:
        comparison.show(rows, form)


def _said(picture: Path, show: bool) -> None:
    """Tell where a picture is and, if wished, have it opened where there is a screen."""
    click.echo(f"wrote {picture}", err=True)
    if show and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.echo("there is no screen to show it on", err=True)
    elif show:
        click.launch(str(picture))
