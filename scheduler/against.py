"""`gpuq plot accuracy`: which value of a job file's key each job has, and which jobs belong to one line."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

import models.registry
from jobs.errors import InputError
from jobs.spec import JobSpec
from models import external

Value = bool | int | float | str


class Place(Struct, frozen=True, kw_only=True):
    """Where a job stands: its value of the key, and the line that it belongs to."""

    value: Value
    series: str


def places(specs: Sequence[JobSpec], key: str) -> list[Place]:
    """The places of jobs along a dotted key, such as `model.depth`.

    A line is of one network, and of its options but for the key. Raises InputError for a key that a job does not have.
    """
    values = [_value(spec, key) for spec in specs]
    others = [{name: value for name, value in _model(spec).items() if f"model.{name}" != key} for spec in specs]
    return [Place(value=value, series=_series(one, others)) for value, one in zip(values, others, strict=True)]


def _value(spec: JobSpec, key: str) -> Value:
    section, _, name = key.partition(".")
    found = _model(spec) if section == "model" else msgspec.to_builtins(getattr(spec, section, {}))
    value = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(value, Value):
        known = ", ".join(f"model.{option}" for option, one in _model(spec).items() if isinstance(one, Value))
        problem = f"{spec.name} has no such key with one value; it has {known}, and those of other sections"
        raise InputError([f"--against {key}: {problem}"])
    return value


def _model(spec: JobSpec) -> dict[str, Any]:
    """A network's name and all its options; a family's without the depth, which becomes an option."""
    name, options = spec.model.name, spec.model.options
    if external.is_external(name):
        return {"name": name, **options}
    network = models.registry.find(name)
    family = {"name": name} if network.depth is None else {"name": name.rpartition("-")[0], "depth": network.depth}
    return {**family, **msgspec.structs.asdict(models.registry.parse_options(name, options))}


def _series(one: Mapping[str, Any], all_of_them: Sequence[Mapping[str, Any]]) -> str:
    """The network, and those of its options in which the jobs differ."""
    differing = [name for name in one if name != "name" and any(other.get(name) != one[name] for other in all_of_them)]
    network = [str(one["name"])] if "name" in one else []
    return ", ".join([*network, *(f"{name} {as_text(one[name])}" for name in differing)])


def as_text(value: object) -> str:
    """As a job file has it, but for the quotes."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
