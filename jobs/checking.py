"""Checks a table of a job file against a record type, and says everything that is wrong with it at once."""

import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

Record = TypeVar("Record", bound=Struct)


MAX_DEPTH = 16


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint to append to a message: `; did you mean "epochs"?`, or what is allowed when nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; allowed: {', '.join(known)}"


def check_table(kind: type[Record], table: object, where: str, errors: list[str]) -> Record | None:
    """Build a `kind` from a TOML table.

    Returns None and appends one line per problem to `errors`, each beginning with its dotted key.
    """
    if not isinstance(table, Mapping):
        errors.append(f"{where}: expected a table, got {toml_literal(table)}")
        return None
    before = len(errors)
    values: dict[str, Any] = {}
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            errors.append(f"{where}.{key}: unknown key{nearest(key, fields)}")
            continue
        try:
            values[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            errors.append(f"{where}.{key}: {_explain(error, fields[key].type, value)}")
    missing = [name for name, field in fields.items() if field.required and name not in values]
    errors += [f"{where}.{name}: missing" for name in missing if name not in table]
    if missing:
        return None
    try:
        record = kind(**values)  # with defaults in place of what is wrong, so that what else is wrong is told as well
    except ValueError as error:
        errors.append(f"{where}.{error}")
    return record if len(errors) == before else None


def check_variant(
    kinds: Mapping[str, type[Struct]], default: str, table: object, where: str, errors: list[str]
) -> Struct | None:
    """Build the record that the table's `name` chooses, e.g. one of the schedules."""
    if not isinstance(table, Mapping):
        errors.append(f"{where}: expected a table, got {toml_literal(table)}")
        return None
    name = table.get("name", default)
    if not isinstance(name, str) or name not in kinds:
        errors.append(f"{where}.name: unknown {where} {toml_literal(name)}{nearest(str(name), kinds)}")
        return None
    rest = {key: value for key, value in table.items() if key != "name"}
    return check_table(kinds[name], rest, where, errors)


def drop_unusable(table: dict[str, Any], errors: list[str], where: str = "") -> None:
    """Remove what TOML can say and a job cannot hold, a line each: a job is kept as JSON."""
    for key, value in list(table.items()):
        if isinstance(value, dict) and not where:
            drop_unusable(value, errors, f"{key}.")
        elif (problem := _unusable(value)) is not None:
            errors.append(f"{where}{key}: {problem}")
            del table[key]


def _unusable(value: object, depth: int = 0) -> str | None:
    match value:
        case bool() | str():
            return None
        case int():
            return None if -(2**63) <= value < 2**63 else "expected an integer of 64 bits at most"
        case float():
            return None if math.isfinite(value) else f"expected a finite number, got {value}"
        case list() | dict():
            if depth == MAX_DEPTH:
                return f"nested more than {MAX_DEPTH} deep"
            inner = value.values() if isinstance(value, dict) else value
            return next((problem for one in inner if (problem := _unusable(one, depth + 1))), None)
    return f"dates and times are of no use in a job, got {value}"


def is_text(path: str) -> bool:
    """Whether a path is UTF-8; to a system it is any bytes, which Python keeps as surrogates (PEP 383)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def toml_literal(value: object) -> str:
    """A value as the person wrote it, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(error: msgspec.ValidationError, kind: Any, value: object) -> str:
    """msgspec's reason in a person's words, with what is allowed and what was there."""
    choices = [choice for choice in _literals(kind) if isinstance(choice, str)]
    if choices and isinstance(value, str):
        return f"unknown value {toml_literal(value)}{nearest(value, choices)}"
    if (numbers := [choice for choice in _literals(kind) if isinstance(choice, int)]) and isinstance(value, int):
        return f"expected {' or '.join(map(str, numbers))}, got {toml_literal(value)}"
    reason = str(error).replace("`", "")
    reason = (reason[0].lower() + reason[1:]).replace(" | null", "")  # which TOML cannot say
    return reason if ", got " in reason else f"{reason}, got {toml_literal(value)}"


def _literals(kind: Any) -> list[object]:
    """The values of every Literal inside a type."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [choice for argument in typing.get_args(kind) for choice in _literals(argument)]
