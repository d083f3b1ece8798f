"""TOML job files: read, expanded by their matrix, validated. All errors of all files, or all jobs."""

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import models.registry
from augment import catalog
from augment.errors import DataError
from jobs import spec
from jobs.checking import check_table, check_variant, drop_unusable, is_text, nearest, toml_literal
from jobs.errors import InputError, printable
from jobs.spec import JobSpec
from models.errors import ModelError

Table = dict[str, Any]

MAX_FILE_BYTES = 1 << 16  # each of a matrix's jobs may hold as much
MAX_COMBINATIONS = 1000
MAX_COUNTED = 10**9  # images of a folder
IMAGE_CHANNELS = 3  # an image folder's images are decoded to RGB
_SECTIONS: dict[str, type[Struct]] = {
    "data": spec.DataSpec,
    "train": spec.TrainSpec,
    "resources": spec.ResourcesSpec,
    "limits": spec.LimitsSpec,
    "diagnostics": spec.DiagnosticsSpec,
}
_VARIANTS = {"optimizer": (spec.OPTIMIZERS, "sgd"), "schedule": (spec.SCHEDULES, "plateau")}
_TOP_LEVEL = ("name", "priority", "model", *_SECTIONS, *_VARIANTS, "matrix")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{spec.MAX_NAME_LENGTH - 1}}}")


def read_job_files(paths: Iterable[Path]) -> list[tuple[Path, JobSpec]]:
    """The jobs of all files, in order, each with its file.

    Raises InputError with one line per error, of every file, if there is any.
    """
    jobs: list[tuple[Path, JobSpec]] = []
    lines: list[str] = []
    for path in paths:
        errors: list[str] = []
        jobs += [(path, job) for job in read_job_file(path, errors)]
        lines += [printable(f"{path}: {error}") for error in dict.fromkeys(errors)]
    if lines:
        raise InputError(lines)
    return jobs


def read_job_file(path: Path, errors: list[str]) -> list[JobSpec]:
    """The jobs of one file; what is wrong with it is appended to `errors`."""
    table = _parse(path, errors)
    if table is None:
        return []
    drop_unusable(table, errors)
    jobs = []
    for suffix, combination in _combinations(table, errors):
        job = _check_job(combination, path, suffix, errors)
        if job is not None:
            jobs.append(job)
    return [] if errors else jobs


def _parse(path: Path, errors: list[str]) -> Table | None:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            errors.append(f"larger than {MAX_FILE_BYTES} bytes: not a job file")
            return None
        return tomllib.loads(content.decode())
    except OSError as error:
        errors.append(f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        errors.append(f"not UTF-8 text (byte {error.start})")
    except (ValueError, RecursionError) as error:  # tomllib lets int()'s own ValueError through
        errors.append(f"not TOML: {error}")
    return None


def _combinations(table: Table, errors: list[str]) -> Iterator[tuple[str, Table]]:
    """Each combination of the matrix as (name suffix, the table with its values put in)."""
    matrix = table.pop("matrix", {})
    if not isinstance(matrix, Mapping):
        errors.append(f"matrix: expected a table of lists, got {toml_literal(matrix)}")
        matrix = {}
    before = len(errors)
    for key, values in matrix.items():
        if not isinstance(values, list) or not values:
            errors.append(f'matrix."{key}": expected a list of values, got {toml_literal(values)}')
        elif (problem := _unknown_key(key, table)) is not None:
            errors.append(f'matrix."{key}": {problem}')
    if len(errors) > before:
        matrix = {}  # so that what else is wrong is told as well
    choices = [[(key, value) for value in values] for key, values in matrix.items()]
    combinations = list(itertools.islice(itertools.product(*choices), MAX_COMBINATIONS + 1))
    if len(combinations) > MAX_COMBINATIONS:
        errors.append(f"matrix: more than {MAX_COMBINATIONS} combinations in one file")
        return
    for combination in combinations:
        yield _suffix(combination), _filled_in(table, combination)


def _unknown_key(key: str, table: Table) -> str | None:
    """Why a dotted matrix key names no key of a job; None if it names one."""
    section, _, name = key.partition(".")
    known = _keys_of(section, table)
    if name and known is None:
        return None
    if not name or not known:
        dotted = (f"{s}.{k}" for s in (*_SECTIONS, *_VARIANTS, "model") for k in _keys_of(s, table) or ["name"])
        return f"names no key of a job{nearest(key, dotted)}" if key != "priority" else None
    return None if name in known else f"names no key of a job{nearest(name, known)}"


def _keys_of(section: str, table: Table) -> list[str] | None:
    """The keys a section knows; None if it takes any (the builder of a network from outside the registry)."""
    kinds: list[type[Struct]] = []
    if section in _SECTIONS:
        kinds = [_SECTIONS[section]]
    elif section in _VARIANTS:
        kinds = list(_VARIANTS[section][0].values())
    elif section == "model":
        options = _model_options(table.get("model"))
        if options is None:
            return None
        kinds = [options]
    else:
        return []
    names = [field.name for kind in kinds for field in msgspec.structs.fields(kind)]
    return list(dict.fromkeys(names if section in _SECTIONS else [*names, "name"]))


def _model_options(model: object) -> type[Struct] | None:
    """The options of the named network, if it is one of the registry's."""
    name = model.get("name") if isinstance(model, Mapping) else None
    try:
        return models.registry.options_type(name) if isinstance(name, str) else None
    except ModelError:  # told when the model itself is checked
        return None


def _filled_in(table: Table, combination: Iterable[tuple[str, Any]]) -> Table:
    table = deepcopy(table)
    for key, value in combination:
        section, _, name = key.rpartition(".")
        target = table.setdefault(section, {}) if section else table
        if isinstance(target, dict):  # else the section itself is wrong, and is told as such
            target[name] = value
    return table


def _suffix(combination: Iterable[tuple[str, Any]]) -> str:
    """`-easy-seed1`: strings stand for themselves, other values after their key."""
    parts = []
    for key, value in combination:
        text = value if isinstance(value, str) else f"{key.rpartition('.')[2]}{value}"
        text = Path(text).name.partition(":")[0] if "/" in text else text
        parts.append("-" + re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-"))
    return "".join(parts)


def _check_job(table: Table, path: Path, suffix: str, errors: list[str]) -> JobSpec | None:
    before = len(errors)
    for key in table:
        if key not in _TOP_LEVEL:
            errors.append(f"{key}: unknown key{nearest(key, _TOP_LEVEL)}")
    name = _check_name(table.get("name"), path, suffix, errors)
    priority = table.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > 1_000_000:
        errors.append(f"priority: expected a whole number up to a million, got {toml_literal(priority)}")
    parts: dict[str, Any] = {"model": _check_model(table, path, errors)}
    for section, kind in _SECTIONS.items():
        parts[section] = check_table(kind, table.get(section, {}), section, errors)
    for section, (kinds, default) in _VARIANTS.items():
        parts[section] = check_variant(kinds, default, table.get(section, {}), section, errors)
    if parts["data"] is not None:
        root = _resolved(parts["data"].root, path, "data.root", errors)
        parts["data"] = msgspec.structs.replace(parts["data"], root=root)
    errors += _contradictions(**parts)
    return JobSpec(name=name, priority=priority, **parts) if len(errors) == before else None


def _check_name(name: object, path: Path, suffix: str, errors: list[str]) -> str:
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem).strip("-.") or "job"
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        errors.append(
            f"name: expected letters, digits, '.', '_', '+' and '-', starting with a letter or digit, "
            f"{spec.MAX_NAME_LENGTH} at most, got {toml_literal(name)}"
        )
        return ""
    return (name + suffix)[: spec.MAX_NAME_LENGTH]


def _check_model(table: Table, path: Path, errors: list[str]) -> spec.ModelSpec | None:
    model = table.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        errors.append('model.name: missing; for example [model] name = "resv1" (`gpuq models` lists them)')
        return None
    name: str = model["name"]
    options = {key: value for key, value in model.items() if key != "name"}
    kind = _model_options(model)
    if kind is not None:
        check_table(kind, options, "model", errors)
        return spec.ModelSpec(name=name, options=options)
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        name = f"{_resolved(file, path, 'model.name', errors)}:{function}"
    try:
        models.registry.check(name, options)
        return spec.ModelSpec(name=name, options=options)
    except ModelError as error:
        errors.append(f"model.name: {error}")
        return None


def _resolved(target: str, job_file: Path, where: str, errors: list[str]) -> str:
    """A path in a job file is relative to that file."""
    try:
        path = str((job_file.parent / Path(target).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a loop of links, a NUL
        errors.append(f"{where}: {error}")
        return target
    if not is_text(path):  # a job is kept as JSON
        errors.append(f"{where}: expected a path in UTF-8, got {toml_literal(path)}")
    return path


def _contradictions(
    model: spec.ModelSpec | None,
    data: spec.DataSpec | None,
    train: spec.TrainSpec | None,
    optimizer: spec.Optimizer | None,
    schedule: spec.Schedule | None,
    **_rest: object,
) -> Iterator[str]:
    """What is wrong between sections that are fine one by one; those that are not are None."""
    if schedule and train:
        yield from _warmup_problems(schedule, train, data)
    floor = getattr(schedule, "min_lr", getattr(schedule, "final_lr", 0.0))
    if optimizer and floor >= optimizer.lr:
        yield f"schedule: the lowest rate {floor:g} is not below optimizer.lr {optimizer.lr:g}"
    if data and model and catalog.DATASETS[data.name].points and not models.registry.takes_points(model.name):
        takers = ", ".join(network.name for network in models.registry.listed() if network.takes_points)
        yield f"model.name: {model.name} takes images, {data.name} are points; networks for these are {takers}"
    if data and train:
        yield from _data_problems(data, train.batch_size)


def _warmup_problems(schedule: spec.Schedule, train: spec.TrainSpec, data: spec.DataSpec | None) -> Iterator[str]:
    unit = "iterations" if schedule.warmup_iterations else "epochs"
    counted = "epochs" if train.iterations is None else "iterations"
    warmup, whole = getattr(schedule, f"warmup_{unit}"), getattr(train, counted)
    steps_per_epoch, told = 1, ""
    if unit != counted:
        if data is None or (images := catalog.DATASETS[data.name].train_images) is None:
            return  # only the files can tell
        training = catalog.all_part_sizes(min(images, data.limit or images), 0, data.split)[0]
        steps_per_epoch = -(-training // train.batch_size)
        told = f", of {steps_per_epoch} iterations an epoch"
    steps = {"epochs": steps_per_epoch, "iterations": 1}
    if warmup * steps[unit] > whole * steps[counted]:
        problem = f"{warmup} is longer than the training of {whole} {counted} (train.{counted}){told}"
        yield f"schedule.warmup_{unit}: {problem}"


def _unsuited(data: spec.DataSpec, facts: catalog.DataFacts) -> Iterator[str]:
    """What does not go with the data set that is named."""
    if facts.points and data.augment != "none":
        yield f'data.augment: "{data.augment}" is for images, {data.name} are points: set it to "none"'
    if facts.input_shape is not None and data.image_size not in (None, facts.image_size):
        found = "points" if facts.points else f"{facts.image_size} pixels"
        yield f"data.image_size: {data.name} has {found}; only an imagefolder can be resized"
    channels = facts.input_shape[0] if facts.input_shape else IMAGE_CHANNELS
    for name in ("mean", "std"):
        values = getattr(data, name)
        if values is not None and len(values) != channels:
            yield f"data.{name}: {len(values)} values for {channels} {'coordinates' if facts.points else 'channels'}"


def _data_problems(data: spec.DataSpec, batch_size: int) -> Iterator[str]:
    facts = catalog.DATASETS[data.name]
    yield from _unsuited(data, facts)
    labelled, tested = facts.train_images, facts.test_images
    if labelled is None:
        root = Path(data.root)
        try:
            folder = catalog.check_image_folder(root)
            labelled = catalog.count_labelled_images(root, at_most=_enough_images(data, batch_size))
        except (DataError, OSError) as error:
            yield f"data.root: {error}"
            return
        if len(folder.classes) == 1:
            only = toml_literal(folder.classes[0])
            yield f"data.root: {root} has one class folder, {only}: nothing to tell apart; is it one folder too high?"
        tested = 0 if folder.test is None else 1
        if not tested and (data.split == "official" or len(data.split) == 2):
            yield f"data.split: {_written(data.split)} needs a test/ folder beside train/ in {root}"
            return
    available = min(count for count in (labelled, data.limit) if count is not None)
    sizes = catalog.all_part_sizes(available, tested or 0, data.split)
    if sizes[0] < batch_size:
        yield f"train.batch_size: {batch_size} is larger than the {sizes[0]} training images"
    elif min(sizes) < 1:
        yield f"data.split: leaves {sizes[1]} images for validation and {sizes[2]} for test; each needs one"


def _written(split: tuple[float, ...] | str) -> str:
    """As it stands in the file."""
    return f'"{split}"' if isinstance(split, str) else str(list(split))


def _enough_images(data: spec.DataSpec, batch_size: int) -> int:
    """So many labelled images surely leave a batch for training and one for each other part: count no further."""
    split = (1.0,) if data.split == "official" else data.split
    return int(min(max(batch_size / split[0], 1 / min(split)) + 2, MAX_COUNTED))
