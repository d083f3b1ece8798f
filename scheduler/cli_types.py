"""Kinds of command-line values: job ids with ranges, sizes."""

import re
from collections.abc import Iterable

import click

from jobs.units import parse_bytes, parse_duration

MAX_RANGE = 100_000
_IDS = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")  # SQLite counts rows a little further than 18 digits


class JobIds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`7`, or `3-9` for all from 3 to 9."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        ids = parse_ids(str(value))
        if ids is None:
            self.fail(f"{value!r} is not a job's id, such as 7, or a range, such as 3-9", param, ctx)
        if not 1 <= len(ids) <= MAX_RANGE:
            self.fail(f"{value!r} is not a range of ids", param, ctx)
        return ids


class JobId(click.ParamType):  # type: ignore[type-arg]
    """`7`."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        ids = parse_ids(str(value))
        if ids is None or len(ids) != 1:
            self.fail(f"{value!r} is not a job's id, such as 7", param, ctx)
        return ids[0]


def parse_ids(text: str) -> range | None:
    """`7` or `3-9`; None for anything else."""
    match = _IDS.fullmatch(text)
    return None if match is None else range(int(match[1]), int(match[2] or match[1]) + 1)


class Memory(click.ParamType):  # type: ignore[type-arg]
    """`6GiB` → bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`30d` → seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def flatten(ranges: Iterable[range]) -> list[int]:
    """The ids of all ranges, each once, in order."""
    return list(dict.fromkeys(job_id for ids in ranges for job_id in ids))


def as_ranges(ids: Iterable[int]) -> str:
    """`1-3, 7`: ids as a person writes them."""
    runs: list[list[int]] = []
    for job_id in sorted(ids):
        if runs and job_id == runs[-1][-1] + 1:
            runs[-1].append(job_id)
        else:
            runs.append([job_id])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
