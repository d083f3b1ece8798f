"""The documentation and the code say the same."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from jobs import spec
from jobs.job_file import read_job_files
from scheduler.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECTIONS = [
    spec.DataSpec,
    spec.TrainSpec,
    spec.ResourcesSpec,
    spec.LimitsSpec,
    spec.DiagnosticsSpec,
    *spec.OPTIMIZERS.values(),
    *spec.SCHEDULES.values(),
]


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by all its words, such as "probe gradients"."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(sorted(commands(cli)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    section = re.search(rf"^## `gpuq {name}[ `].*?(?=^## |\Z)", (ROOT / "docs/commands.md").read_text(), re.M | re.S)
    assert section is not None, f"docs/commands.md has no section for gpuq {name}"
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts if option[:2] == "--"]
    assert [option for option in options if f"`{option}" not in section[0]] == []


def test_every_documented_command_exists() -> None:
    documented = re.findall(r"^## `gpuq ([a-z][a-z -]*[a-z])", (ROOT / "docs/commands.md").read_text(), re.M)
    assert sorted(documented) == sorted(COMMANDS)


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_key_of_a_job_file_is_documented(kind: type[msgspec.Struct]) -> None:
    documented = (ROOT / "docs/job-files.md").read_text()
    assert [field.name for field in msgspec.structs.fields(kind) if f"`{field.name}`" not in documented] == []


def test_the_job_file_in_the_readme_is_valid(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", README, re.S)
    assert example is not None
    file = tmp_path / "example.toml"
    file.write_text(example[1])
    assert len(read_job_files([file])) == 8


def test_ci_runs_the_readmes_test_command_last() -> None:
    command = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert command.endswith("uv run pytest")
    assert f"$ {command}\n" in README


def test_every_requirement_of_the_project_is_pinned_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=!~ ]", requirement)[0].lower() for requirement in project["dependencies"]}
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==\S+.*\\\n\s+--hash=", (ROOT / "requirements.txt").read_text(), re.M)
    assert wanted - {name.lower() for name in pinned} == set()
