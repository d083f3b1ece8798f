"""Sizes and durations as people write and read them: `6 GiB`, `90m`. Inside, integers of bytes and seconds."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_BYTES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BYTES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCHS = re.compile(r"\s*([1-9]\d{0,8})\s*epochs?\s*")
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int:
    """`"6 GiB"` → 6442450944. Raises ValueError for anything but a positive number and a unit."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    size = _scaled(match, _BYTES) if match is not None and match[2] else math.nan
    if not 1 <= size < math.inf:
        raise ValueError(f'expected a size such as "6 GiB" or "512 MiB", got {text!r}')
    return int(size)


def parse_duration(text: str) -> float:
    """`"90m"` → 5400.0 seconds. Raises ValueError for anything but a number and one of s, m, h, d."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    seconds = _scaled(match, _SECONDS) if match is not None else math.nan
    if not seconds < math.inf:
        raise ValueError(f'expected a duration such as "30s", "90m" or "6h", got {text!r}')
    return seconds


@dataclass(frozen=True)
class Interval:
    """How often something is due: after so many seconds, or after so many epochs."""

    seconds: float | None = None
    epochs: int | None = None


def parse_interval(text: str) -> Interval:
    """`"5m"` or `"2 epochs"`. Raises ValueError for anything else."""
    if match := _EPOCHS.fullmatch(text):
        return Interval(epochs=int(match[1]))
    try:
        return Interval(seconds=parse_duration(text))
    except ValueError:
        raise ValueError(f'expected a duration such as "30s" or "5m", or "1 epoch", "5 epochs", got {text!r}') from None


def _scaled(match: re.Match[str], units: Mapping[str, int]) -> float:
    """A number times its unit; NaN where there is no such unit."""
    return float(match[1]) * units.get(match[2].lower(), math.nan)


def format_bytes(count: int) -> str:
    """1610612736 → `1.5 GiB`, with the largest binary unit that leaves at least one."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit in ("B", "KiB") or size >= 100 else f"{size:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """5400 → `1h 30m`; two units at most, whole seconds."""
    left = round(seconds)
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
