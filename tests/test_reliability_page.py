"""docs/reliability.md names tests for whatever it claims, and they are there."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
CLAIMS = [
    line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and line.count(" | ") == 2
]
ROWS = {what: shown for what, _, shown in CLAIMS if shown not in ("---", "shown by")}


@cache
def named_in(file: Path) -> frozenset[str]:
    """What pytest collects of a file, by its names within it."""
    return frozenset(_named(ast.parse(file.read_text()).body)) if file.is_file() else frozenset()


def _named(nodes: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _named(node.body, f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield prefix + node.name
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("Test"):
            yield ast.unparse(node.targets[0])  # a state machine's `TestCase`


@pytest.mark.parametrize("what", ROWS)
def test_every_claim_names_tests_that_exist(what: str) -> None:
    named = re.findall(r"`(tests/[^`]+\.py)::([^`]+)`", ROWS[what])
    assert named != []
    assert [f"{file}::{test}" for file, test in named if test not in named_in(ROOT / file)] == []


def test_there_are_claims() -> None:
    assert len(ROWS) >= 28
