"""A job file names the networks of a family as it names any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.job_file import read_job_files
from jobs.spec import ModelSpec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.toml"


def refusal(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        read_job_files([file])
    return [line.removeprefix(f"{file}: ") for line in str(refused.value).splitlines()]


def test_a_matrix_may_go_over_depths_and_widths(file: Path) -> None:
    file.write_text('[matrix]\n"model.name" = ["resnet-20", "plainnet-1202"]\n"model.width" = [8]\n')
    assert [job.model for _, job in read_job_files([file])] == [
        ModelSpec(name="resnet-20", options={"width": 8}),
        ModelSpec(name="plainnet-1202", options={"width": 8}),
    ]


def test_a_depth_that_no_network_has_is_one_line(file: Path) -> None:
    expected = ["model.name: resnet-21: depth must be 6n + 2, such as 20 or 26"]
    assert refusal(file, '[model]\nname = "resnet-21"\nwidth = 8\n') == expected


def test_a_misspelt_family_suggests_a_studied_depth(file: Path) -> None:
    (line,) = refusal(file, '[model]\nname = "plainet-56"\n')
    assert line.startswith("model.name: unknown network 'plainet-56'; did you mean 'plainnet-56'")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ('name = "resnet-20"\nwidht = 8', 'model.widht: unknown key; did you mean "width"?'),
        ('name = "vgg38"\ndown_skip = "max"', 'model.down_skip: unknown value "max"; allowed: none, conv, pool'),
        ('name = "vgg38"\nbn = 1', "model.bn: expected bool, got int"),
        (
            'name = "mlp"\nactivation = "tanh"',
            'model.activation: unknown value "tanh"; allowed: relu, leaky_relu, prelu, elu, gelu, silu, sigmoid',
        ),
        ('name = "mlp"\ndepth = 0', "model.depth must be at least 1, got 0"),
        ('name = "resnet-20"\n[matrix]\n"model.widht" = [8]', 'matrix."model.widht": names no key of a job; did you'),
    ],
)
def test_a_wrong_option_is_one_line(file: Path, model: str, line: str) -> None:
    (told,) = refusal(file, f"[model]\n{model}\n")
    assert told.startswith(line)
