"""Sizes and durations as people write and read them: `6 GiB`, `90m`. Inside, integers of bytes and seconds."""

import re

_BYTES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BYTES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int:
    """`"6 GiB"` → 6442450944. Raises ValueError for anything but a positive number and a unit."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or not match[2] or match[2].lower() not in _BYTES or float(match[1]) <= 0:
        raise ValueError(f'expected a size such as "6 GiB" or "512 MiB", got {text!r}')
    return int(float(match[1]) * _BYTES[match[2].lower()])


def parse_duration(text: str) -> float:
    """`"90m"` → 5400.0 seconds. Raises ValueError for anything but a number and one of s, m, h, d."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2].lower() not in _SECONDS:
        raise ValueError(f'expected a duration such as "30s", "90m" or "6h", got {text!r}')
    return float(match[1]) * _SECONDS[match[2].lower()]


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
