"""`gpuq estimate`: what jobs would need, without queueing them."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from jobs.job_file import read_job_files
from jobs.spec import JobSpec
from jobs.units import format_bytes
from scheduler import estimate as estimates
from scheduler.device import choose_device
from scheduler.home import Home
from scheduler.store import Store
from scheduler.tracing import Failed, Tracer


class Forecast(Struct, frozen=True, kw_only=True):
    """The estimate of one job of a file, or why there is none."""

    file: str
    name: str
    estimate_bytes: int | None = None
    basis: str | None = None
    margin: float | None = None
    reservation_bytes: int | None = None
    components: dict[str, int] = {}
    parameters: int | None = None
    error: str | None = None


def forecast_files(home: Home, files: Iterable[Path], device: str) -> list[Forecast]:
    """Estimate every job of every file. Raises InputError."""
    chosen = choose_device(device)
    jobs = read_job_files(files)
    store = Store(home.store)
    tracer = Tracer(chosen, home.cache, home.estimator_log)
    known: dict[int, estimates.Estimate | Failed] = {}
    try:
        for key, (_, spec) in enumerate(jobs):
            tracer.ask(key, spec, prepare=False)
        while tracer.pending:
            for key, reply in tracer.poll(timeout_s=1.0).items():
                if isinstance(reply, Failed):
                    known[key] = reply
                else:
                    known[key] = estimates.modelled(reply.components, reply.parameters)
    finally:
        tracer.close()
    return [
        _forecast(path, spec, known[key], store.measured_peak(estimates.signature(spec, chosen.kind)))
        for key, (path, spec) in enumerate(jobs)
    ]


def _forecast(path: Path, spec: JobSpec, traced: estimates.Estimate | Failed, measured_peak: int | None) -> Forecast:
    best = estimates.best(spec, measured_peak, None if isinstance(traced, Failed) else traced)
    if best is None:
        assert isinstance(traced, Failed)
        return Forecast(file=str(path), name=spec.name, error=traced.reason)
    return Forecast(
        file=str(path),
        name=spec.name,
        estimate_bytes=best.bytes,
        basis=best.basis,
        margin=best.margin,
        reservation_bytes=best.reservation_bytes,
        components=best.components,
        parameters=best.parameters,
    )


def show_forecasts(forecasts: Sequence[Forecast]) -> None:
    """A row a job, and where its bytes go."""
    from rich.table import Table

    from scheduler import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("File", "Name"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Estimate", "Margin", "Reservation"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Basis", no_wrap=True)
    table.add_column("Where it goes", overflow="fold")
    known = [forecast for forecast in forecasts if forecast.error is None]
    for forecast in known:
        table.add_row(forecast.file, forecast.name, *_cells(forecast))
    if known:
        render.console().print(table)
    for forecast in forecasts:
        if forecast.error is not None:
            print(f"gpuq: {forecast.file}: {forecast.name}: {forecast.error}", file=sys.stderr)


def _cells(forecast: Forecast) -> tuple[str, ...]:
    assert forecast.estimate_bytes is not None
    assert forecast.margin is not None
    assert forecast.reservation_bytes is not None
    parts = sorted(forecast.components.items(), key=lambda item: -item[1])
    return (
        format_bytes(forecast.estimate_bytes),
        f"{100 * forecast.margin:.0f} %",
        format_bytes(forecast.reservation_bytes),
        forecast.basis or "",
        ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size >= 1 << 20),
    )
