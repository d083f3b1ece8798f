"""`gpuq estimate` for people: a bar for each thing that takes memory, one beginning where the one above it ends."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from jobs.units import format_bytes
from scheduler.device import Snapshot
from scheduler.forecast import Forecast, Outlook
from scheduler.placement import too_large
from scheduler.render import console

_WIDEST_BAR = 60
_JUSTIFY: tuple[JustifyMethod, ...] = ("left", "right", "right")


def show(outlook: Outlook) -> None:
    """Print a block for each group of jobs that need the same, and a line on stderr for each that cannot be told."""
    out = console()
    for group in alike([forecast for forecast in outlook.forecasts if forecast.error is None]):
        out.print(ForecastBlock(group, outlook.device))
    for forecast in outlook.forecasts:
        if forecast.error is not None:
            print(f"gpuq: {forecast.file}: {forecast.name}: {forecast.error}", file=sys.stderr)


def alike(forecasts: Sequence[Forecast]) -> list[list[Forecast]]:
    """Forecasts that say the same of different jobs together, in order."""
    groups: dict[bytes, list[Forecast]] = {}
    for forecast in forecasts:
        groups.setdefault(msgspec.json.encode(replace(forecast, file="", name="")), []).append(forecast)
    return list(groups.values())


@dataclass(frozen=True)
class _Row:
    """A figure, its share, and the part of the reservation or of the device that its bar covers."""

    label: str
    bytes: int
    share: float | None
    begin: float
    end: float
    colour: str = "default"

    def cells(self) -> tuple[str, str, str]:
        return self.label, format_bytes(self.bytes), "" if self.share is None else f"{100 * self.share:.0f} %"


class ForecastBlock:
    """The estimate of jobs that need the same, on a device; None if that cannot be read."""

    def __init__(self, forecasts: Sequence[Forecast], device: Snapshot | None) -> None:
        self.forecasts = forecasts
        self.device = device

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        forecast = self.forecasts[0]
        yield Text(title(self.forecasts), style="bold")
        rows = [*_rows(forecast), *_device_rows(forecast, self.device)]
        table = Table(box=None, pad_edge=False, show_header=False)
        for justify, texts in zip(_JUSTIFY, zip(*(row.cells() for row in rows), strict=True), strict=True):
            table.add_column(justify=justify, no_wrap=True, min_width=max(map(len, texts)))  # only bars give way
        for row in rows:
            bar = Bar(1, row.begin, row.end, width=_WIDEST_BAR, color=row.colour)
            table.add_row(*row.cells(), bar, style=row.colour)
        yield table
        yield from (Text(line) for line in conclusion(forecast, self.device))
        yield Text()


def title(forecasts: Sequence[Forecast]) -> str:
    """The first job, how many are like it, and how it was estimated."""
    first, others = forecasts[0], len(forecasts) - 1
    like_it = f" and {others} more like it" if others else ""
    size = "" if first.parameters is None else f", {first.parameters:,} parameters"
    return f"{first.file}: {first.name}{like_it}: {first.basis}{size}"


def _rows(forecast: Forecast) -> Iterator[_Row]:
    """The components, what they come to, and the margin, on the scale of the reservation."""
    estimated, reserved = forecast.estimate_bytes, forecast.reservation_bytes
    assert estimated is not None
    assert reserved is not None
    traced = sum(forecast.components.values())
    scale = max(reserved, traced)
    begin = 0
    for name, size in forecast.components.items():
        if size:
            yield _Row(name, size, size / traced, begin / scale, (begin + size) / scale, "cyan")
            begin += size
    if forecast.components and traced != estimated:
        yield _Row("traced", traced, None, 0, traced / scale)
    yield _Row("estimate", estimated, None, 0, estimated / scale)
    yield _Row("margin", reserved - estimated, forecast.margin, estimated / scale, reserved / scale, "yellow")
    yield _Row("reservation", reserved, None, 0, reserved / scale)


def _device_rows(forecast: Forecast, device: Snapshot | None) -> Iterator[_Row]:
    """The reservation on the scale of what the device has for gpuq."""
    assert forecast.reservation_bytes is not None
    if device is not None and device.capacity_bytes > 0:
        share = forecast.reservation_bytes / device.capacity_bytes
        yield _Row("of the device", device.capacity_bytes, share, 0, min(share, 1), "green" if share <= 1 else "red")


def conclusion(forecast: Forecast, device: Snapshot | None) -> Iterator[str]:
    """Whether it fits, and what would."""
    assert forecast.reservation_bytes is not None
    if device is None:
        yield "the device cannot be read: what fits it is not known"
    elif forecast.reservation_bytes > device.capacity_bytes:
        yield too_large(forecast.reservation_bytes, device.capacity_bytes, forecast.largest_batch_size)
    elif forecast.largest_batch_size is None:
        yield "fits"
    else:
        yield f"fits, alone up to train.batch_size = {forecast.largest_batch_size}"
