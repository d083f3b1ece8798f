"""`gpuq probe`: what one batch tells about networks, as tables, JSON and pictures."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from rich.table import Table
from rich.text import Text

from jobs.diagnostics import activations, gradients
from jobs.diagnostics.activations import LayerActivations
from jobs.diagnostics.gradients import GradientProbe, Verdict
from scheduler.home import Home
from scheduler.pictures import figure, probes
from scheduler.render import console
from scheduler.subjects import choose, in_one_line, load

_VERDICT_STYLES = {Verdict.HEALTHY: "green", Verdict.VANISHING: "red", Verdict.EXPLODING: "red"}


class ActivationsReport(Struct, frozen=True, kw_only=True):
    """The layers of one network, in the order they are computed, and the names of the dead ones."""

    subject: str
    layers: list[LayerActivations]
    dead: list[str]


class GradientsReport(Struct, frozen=True, kw_only=True):
    """The parameters of one network, and what becomes of its gradients."""

    subject: str
    probe: GradientProbe
    rule: str = gradients.VERDICT_RULE


def probe_activations(home: Home, words: Sequence[str], device: str, out: Path | None) -> list[ActivationsReport]:
    """Probe each network on the first batch it trains on; `out` is for a picture. Raises GpuqError."""
    if out is not None:
        figure.check_path(out)
    reports = []
    for subject in load(home, choose(home, words), device):
        with in_one_line(subject.title):
            layers = activations.probe(subject.network, subject.batch()[0])
        reports.append(ActivationsReport(subject=subject.title, layers=layers, dead=activations.dead_layers(layers)))
    if out is not None:
        figure.save(probes.activations_figure([(report.subject, report.layers) for report in reports]), out)
    return reports


def probe_gradients(home: Home, words: Sequence[str], device: str, out: Path | None) -> list[GradientsReport]:
    """Probe each network on the first batch it trains on; `out` is for a picture. Raises GpuqError."""
    if out is not None:
        figure.check_path(out)
    reports = []
    for subject in load(home, choose(home, words), device):
        with in_one_line(subject.title):
            probe = gradients.probe(subject.network, *subject.batch())
        reports.append(GradientsReport(subject=subject.title, probe=probe))
    if out is not None:
        figure.save(probes.gradients_figure([(report.subject, report.probe) for report in reports]), out)
    return reports


def show_activations(reports: Sequence[ActivationsReport]) -> None:
    """A table a network, and its dead layers."""
    screen = console()
    for report in reports:
        table = _table(report.subject, ["Layer", "Kind"], ["Mean", "Std", "Min", "Max", "Zeros"])
        for layer in report.layers:
            numbers = (layer.mean, layer.std, layer.min, layer.max)
            table.add_row(layer.name, layer.kind, *(f"{number:.4g}" for number in numbers), f"{layer.zeros:.1%}")
        screen.print(table)
        dead = ", ".join(report.dead)
        screen.print(Text(f"dead layers: {dead}" if dead else "no dead layers", style="red" if dead else "green"))
        screen.print()
    screen.print(Text(activations.DEAD_RULE, style="dim"))


def show_gradients(reports: Sequence[GradientsReport]) -> None:
    """A table a network, and its verdict."""
    screen = console()
    for report in reports:
        probe = report.probe
        table = _table(report.subject, ["Parameter", "Shape"], ["Gradient norm", "Weight norm", "Ratio"])
        for row in probe.parameters:
            shape = "×".join(map(str, row.shape))
            ratio = "" if row.ratio is None else f"{row.ratio:.3e}"
            table.add_row(row.name, shape, f"{row.gradient_norm:.3e}", f"{row.weight_norm:.3e}", ratio)
        screen.print(table)
        screen.print(Text(f"gradients: {probe.verdict}; loss {probe.loss:.4f}", style=_VERDICT_STYLES[probe.verdict]))
        screen.print()
    screen.print(Text(gradients.VERDICT_RULE, style="dim"))


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in texts:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
