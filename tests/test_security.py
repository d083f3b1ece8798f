"""Nothing that is read runs code or reaches a shell, and no name in a job file becomes a path.

That files are their owner's alone and hold no secrets is tested where jobs run: tests/test_end_to_end.py.
"""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import InputError, in_words
from jobs.job_file import read_job_files
from scheduler.home import Home
from scheduler.submission import submit_files

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("scheduler", "jobs", "models", "augment") for path in (ROOT / room).rglob("*.py"))
RUN_WHAT_THEY_READ = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}


def offences(tree: ast.AST) -> Iterator[str]:
    """What of a source might run what somebody else has written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"line {node.lineno}: imports {name}" for name in names if name in RUN_WHAT_THEY_READ)
        elif isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {ast.unparse(node.func)} {why}" for why in _offences_of_call(node))


def _offences_of_call(call: ast.Call) -> Iterator[str]:
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    match call.func:
        case ast.Name(id=name) if name in EVALUATORS:
            yield "evaluates"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load") if arguments.get("weights_only") != "True":
            yield "unpickles"
        case ast.Attribute(attr=name) if name in SHELLS:
            yield "is a shell"
    if arguments.get("allow_pickle", "False") != "False":
        yield "unpickles"
    if arguments.get("shell", "False") != "False":
        yield "is a shell"


def test_no_source_unpickles_or_uses_a_shell() -> None:
    found = {path.relative_to(ROOT): list(offences(ast.parse(path.read_text()))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(words, shell=True)",
        "os.system(words)",
        "eval(words)",
    ],
)
def test_what_is_looked_for_is_found(line: str) -> None:
    assert len(list(offences(ast.parse(line)))) == 1


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", ".x", "a/b", "a\\u0000b", "a\\nb", "-rf", ""])
def test_a_job_is_not_named_like_a_path_or_an_option(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'name = "{name}"\n[model]\nname = "resv1"\n')
    with pytest.raises(InputError, match=r"a\.toml: name: expected letters, digits"):
        read_job_files([file])


def test_whatever_a_job_file_names_a_submission_writes_below_the_run_directories_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "state" / "home").create()
    file = tmp_path / "..x..toml"
    file.write_text('[model]\nname = "resv1"\n[matrix]\n"data.root" = ["../../outside", "/tmp/outside", "~/outside"]\n')
    before = {*tmp_path.rglob("*"), *tmp_path.parent.iterdir()}
    told = submit_files(home, [file], start=False, device="cpu", memory_bytes=None)
    assert [Path(job.name).name for job in told.jobs] == ["x-outside"] * 3
    new = {*tmp_path.rglob("*"), *tmp_path.parent.iterdir()} - before - {home.runs}
    beside_the_store = [path for path in new if not path.match("home/gpuq.db*")]
    assert {path.relative_to(home.runs).parts[0] for path in beside_the_store} == {"1", "2", "3"}


@pytest.mark.parametrize("umask", [0, 0o077])
def test_what_a_submission_leaves_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """What jobs leave when they run is looked at in tests/test_end_to_end.py."""
    file = tmp_path / "a.toml"
    file.write_text('[model]\nname = "resv1"\n')
    usual = os.umask(umask)
    try:
        home = Home(tmp_path / "state" / "home").create()
        submit_files(home, [file], start=False, device="cpu", memory_bytes=None)
    finally:
        os.umask(usual)
    left = {path: stat.S_IMODE(path.stat().st_mode) for path in (home.path, *home.path.rglob("*"))}
    assert {"spec.json", "submission.json", "gpuq.db"} <= {path.name for path in left}
    assert {path: oct(mode) for path, mode in left.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_the_reason_of_a_failure_is_one_line_that_does_not_command_the_terminal() -> None:
    assert in_words(ValueError("\n\x1b[31mred\nmore")) == "ValueError: \\x1b[31mred"
