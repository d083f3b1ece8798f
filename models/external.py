"""Networks that are not ours: torchvision's classifiers, and builders in a user's own file.

torch and torchvision are imported only by `build`; `check_external` needs neither and costs milliseconds.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import symtable
import sys
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError, UnknownNetworkError, did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

_TORCHVISION = "torchvision:"
# torchvision registers a builder by decorating it: `@register_model()` or `@register_model(name="…")`.
_REGISTERED = re.compile(
    r'^@register_model\((?:name="(?P<name>\w+)")?\).*?^def (?P<function>\w+)', re.MULTILINE | re.DOTALL
)


def is_external(name: str) -> bool:
    """Whether this names torchvision or a user's file, not the registry."""
    return ":" in name


def is_users_file(name: str) -> bool:
    """Whether this names a builder in a user's own file: code that may do anything."""
    return is_external(name) and not name.startswith(_TORCHVISION)


def check_external(name: str) -> None:
    """Refuses a name that cannot be built, without importing torchvision or running the user's file.

    A torchvision name must be a classifier; a file must exist, parse, and define the name at its top level.
    Raises UnknownNetworkError with the nearest names, or ModelError.
    """
    if name.startswith(_TORCHVISION):
        _check_torchvision(name)
    else:
        _check_file(name)


def imported_by(name: str) -> set[str]:
    """The packages that a user's file imports, without running it; none of a file that cannot be read."""
    file = name.rpartition(":")[0]
    if not file.endswith(".py"):
        return set()
    try:
        tree = ast.parse(Path(file).expanduser().read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return set()
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {module.partition(".")[0] for module in modules}


def build(name: str, options: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network of an external name for samples of `input_shape` (C, H, W). Raises ModelError.

    A user's function is called as `function(classes=…, channels=…, **options)`; its file can import installed
    packages, not the files beside it. The network raises ModelError when it
    returns anything but logits (B, `classes`): the loss would tell less, and on a GPU end the process.
    """
    check_external(name)
    builder = _build_torchvision if name.startswith(_TORCHVISION) else _build_from_file
    network = builder(name, options, channels=input_shape[0], classes=classes)
    network.register_forward_hook(partial(_expect_logits, name, classes))
    return network


def _expect_logits(name: str, classes: int, _network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    expected = (len(inputs[0]), classes)
    shape = getattr(output, "shape", None)
    if shape is None or tuple(shape) != expected:
        returned = type(output).__name__ if shape is None else f"shape {tuple(shape)}"
        raise ModelError(f"{name} returned {returned}, expected logits of shape {expected}")


def _check_torchvision(name: str) -> None:
    wanted = name.removeprefix(_TORCHVISION)
    folder = _torchvision_models()
    # Classifiers lie in the folder itself, networks of other tasks in folders below it.
    classifiers = _registered_in(folder.glob("*.py"))
    if wanted in classifiers:
        return
    if wanted in _registered_in(folder.glob("*/*.py")):
        raise ModelError(f"{name} is not an image classifier")
    raise UnknownNetworkError(name, [_TORCHVISION + near for near in difflib.get_close_matches(wanted, classifiers)])


@cache
def _torchvision_models() -> Path:
    """The folder of torchvision's networks, found without importing it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModelError("torchvision is not installed")
    return Path(spec.origin).parent / "models"


def _registered_in(files: Iterable[Path]) -> list[str]:
    return [
        found["name"] or found["function"]
        for file in sorted(files)
        for found in _REGISTERED.finditer(file.read_text(encoding="utf-8"))
    ]


def _build_torchvision(name: str, options: Mapping[str, object], *, channels: int, classes: int) -> nn.Module:
    from torch import nn
    from torchvision.models import get_model

    settings = _with_reserved(name, options, weights=None, num_classes=classes)
    network: nn.Module = _call(name, get_model, name.removeprefix(_TORCHVISION), **settings)
    taken = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    if taken != channels:
        raise ModelError(f"{name} takes images of {taken} channels, and the data has {channels}")
    if getattr(network, "aux_logits", False):
        raise ModelError(f"{name} returns auxiliary logits too: set aux_logits = false")
    return network


def _split(name: str) -> tuple[Path, str]:
    """The file and the function of "path/to/file.py:function"."""
    file, _, function = name.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        kinds = "a network's name, torchvision:NAME or path/to/file.py:function"
        raise ModelError(f"no model is called {name!r}: expected {kinds}")
    return Path(file).expanduser(), function


def _check_file(name: str) -> None:
    file, function = _split(name)
    try:
        table = symtable.symtable(importlib.util.decode_source(file.read_bytes()), str(file), "exec")
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"{file} is not valid Python: {error}") from None
    defined = [symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()]
    if function not in defined:
        nearest = difflib.get_close_matches(function, defined)
        raise ModelError(f"{file} defines no {function!r} at its top level{did_you_mean(nearest)}")


def _build_from_file(name: str, options: Mapping[str, object], *, channels: int, classes: int) -> nn.Module:
    from torch import nn

    file, function = _split(name)
    settings = _with_reserved(name, options, classes=classes, channels=channels)
    module = _call(name, _load, file)
    network = _call(name, _call(name, getattr, module, function), **settings)
    if not isinstance(network, nn.Module):
        raise ModelError(f"{name} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def _load(file: Path) -> ModuleType:
    """Runs a user's file under a name of its own, so that it shadows no module and needs no sys.path."""
    private = "_gpuq_user_file_" + file.resolve().as_posix().replace(".", "_")
    spec = importlib.util.spec_from_file_location(private, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module


def _with_reserved(name: str, options: Mapping[str, object], **reserved: object) -> dict[str, Any]:
    """The options with those that are not the user's to choose. Raises ModelError where both name one."""
    if taken := options.keys() & reserved.keys():
        raise ModelError(f"{name}: {', '.join(sorted(taken))} cannot be set here")
    return {**options, **reserved}


def _call(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls code that is not ours; whatever it raises becomes one line, with the original as its cause."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"{name}: {type(error).__name__}: {first_line}") from error
