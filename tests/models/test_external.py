"""Networks that are not ours: torchvision's classifiers and a user's own file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from models.errors import ModelError, UnknownNetworkError
from models.external import imported_by
from models.registry import build, check

GOOD = """
from dataclasses import dataclass

import torch

@dataclass
class Plan:
    hidden: int

def build(*, classes, channels, hidden=4):
    plan = Plan(hidden)
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, plan.hidden, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(plan.hidden, classes),
    )

def wrong(*, classes, channels):
    return "not a network"

def broken(*, classes, channels):
    raise RuntimeError("first line\\nsecond line")

class Net(torch.nn.Linear):
    def __init__(self, *, classes, channels):
        super().__init__(channels, classes)

if True:
    alias = build
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def build_small(name: str, options: Mapping[str, object] | None = None, channels: int = 3) -> nn.Module:
    return build(name, options or {}, input_shape=(channels, 32, 32), classes=7)


def refusal_of(name: str) -> str:
    with pytest.raises(ModelError) as refusal:
        check(name, {})
    return str(refusal.value)


def test_every_torchvision_classifier_is_known_and_nothing_else() -> None:
    classifiers = set(torchvision.models.list_models(module=torchvision.models))
    for name in torchvision.models.list_models():
        if name in classifiers:
            check(f"torchvision:{name}", {})
        else:
            assert refusal_of(f"torchvision:{name}") == f"torchvision:{name} is not an image classifier"


def test_a_torchvision_typo_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNetworkError) as refusal:
        check("torchvision:resnt18", {})
    assert refusal.value.nearest[0] == "torchvision:resnet18"


def test_a_torchvision_network_starts_untrained_with_the_datas_classes() -> None:
    network = build_small("torchvision:squeezenet1_1", {"dropout": 0.1})
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "options", "channels", "message"),
    [
        ("squeezenet1_1", {}, 1, "takes images of 3 channels, and the data has 1"),
        ("squeezenet1_1", {"depth": 3}, 3, "TypeError: .* unexpected keyword argument 'depth'"),
        ("squeezenet1_1", {"weights": "DEFAULT"}, 3, "weights cannot be set here"),
        ("googlenet", {"init_weights": False}, 3, "set aux_logits = false"),
    ],
)
def test_a_torchvision_network_that_cannot_be_trained_here_is_refused(
    name: str, options: dict[str, object], channels: int, message: str
) -> None:
    with pytest.raises(ModelError, match=f"^torchvision:{name}.*{message}"):
        build_small(f"torchvision:{name}", options, channels)


@pytest.mark.parametrize("function", ["build", "alias"])
def test_a_users_function_gets_classes_channels_and_options(file: Path, function: str) -> None:
    name = f"{file}:{function}"
    check(name, {})
    network = build_small(name, {"hidden": 5}, channels=2)
    assert network(torch.randn(1, 2, 8, 8)).shape == (1, 7)
    assert isinstance(network[0], nn.Conv2d)  # type: ignore[index]
    assert network[0].out_channels == 5  # type: ignore[index]


def test_a_users_class_is_a_builder_too(file: Path) -> None:
    assert isinstance(build_small(f"{file}:Net"), nn.Linear)


def test_a_users_file_shadows_no_module_and_adds_no_path(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("import torch\ndef build(**_): return torch.nn.Identity()\n")
    ours, path = sys.modules["models"], list(sys.path)
    build_small(f"{tmp_path}/models.py:build")
    assert sys.modules["models"] is ours
    assert sys.path == path


def test_a_users_file_is_checked_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(**_): ...\nraise RuntimeError\n")
    check(f"{tmp_path}/mine.py:build", {})


def test_what_a_users_file_imports_is_known_without_running_it(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import a, b.c as d\nfrom e.f import g\nfrom . import h\n1 / 0\n\ndef net():\n    import torchvision.models\n"
    )
    assert imported_by(f"{file}:net") == {"a", "b", "e", "torchvision"}


@pytest.mark.parametrize("content", [None, b"import", b"\xff", b"\0"])
def test_a_file_that_cannot_be_read_imports_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "net.py"
    if content is not None:
        file.write_bytes(content)
    assert imported_by(f"{file}:net") == set()


def test_a_network_that_is_no_users_imports_nothing_of_its_own() -> None:
    assert imported_by("resv1") == imported_by("torchvision:resnet18") == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(:\n", "is not valid Python: "),
        ("def biuld(): ...\n", "defines no 'build' at its top level; did you mean 'biuld'?"),
        ("class Net:\n    def build(self): ...\n", "defines no 'build' at its top level"),
        ("print(build)\n", "defines no 'build' at its top level"),
    ],
)
def test_a_file_without_the_function_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert message in refusal_of(f"{tmp_path}/mine.py:build")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal_of(f"{tmp_path}/no.py:build") == f"cannot read {tmp_path}/no.py: No such file or directory"


@pytest.mark.parametrize("name", ["mine.txt:build", "mine.py:", "torchvison:resnet18", "mine.py:a b"])
def test_a_name_of_no_kind_is_refused_with_the_kinds_there_are(name: str) -> None:
    assert "expected a network's name, torchvision:NAME or path/to/file.py:function" in refusal_of(name)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("wrong", {}, "returned str, not a torch.nn.Module"),
        ("broken", {}, "RuntimeError: first line$"),
        ("build", {"hiden": 3}, "TypeError: build.* unexpected keyword argument 'hiden'"),
        ("build", {"classes": 3}, "classes cannot be set here"),
        ("Plan", {}, "TypeError: "),
    ],
)
def test_a_builder_that_fails_is_reported_in_one_line(
    file: Path, function: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=f"mine.py:{function}:? {message}"):
        build_small(f"{file}:{function}", options)


def test_a_file_that_raises_is_reported_with_its_cause_and_leaves_no_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(**_): ...\nraise KeyError('lost')\n")
    modules = set(sys.modules)
    with pytest.raises(ModelError, match=r"mine\.py:build: KeyError: 'lost'") as refusal:
        build_small(f"{tmp_path}/mine.py:build")
    assert isinstance(refusal.value.__cause__, KeyError)
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("images.mean((2, 3))", r"returned shape \(2, 3\), expected logits of shape \(2, 10\)"),
        ("images", r"returned shape \(2, 3, 32, 32\), expected logits"),
        ("(images, images)", "returned tuple, expected logits"),
    ],
)
def test_a_network_that_returns_no_logits_is_told_of_it(tmp_path: Path, returned: str, told: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, images):\n"
        f"        return {returned}\ndef build(classes, channels):\n    return Net()\n"
    )
    network = build(f"{file}:build", {}, input_shape=(3, 32, 32), classes=10)
    with pytest.raises(ModelError, match=told):
        network(torch.zeros(2, 3, 32, 32))
