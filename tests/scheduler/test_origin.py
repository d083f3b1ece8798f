"""Where jobs are submitted from."""

import os
import subprocess
from pathlib import Path

from scheduler.origin import origin
from scheduler.records import Origin


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_outside_a_repository_it_is_the_directory(tmp_path: Path) -> None:
    assert origin(tmp_path) == Origin(directory=str(tmp_path))


def test_in_a_repository_it_tells_the_commit_and_whether_files_were_changed(tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text("first")
    git(tmp_path, "init", "--quiet")
    assert origin(tmp_path) == Origin(directory=str(tmp_path))
    git(tmp_path, "add", "network.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert origin(tmp_path) == Origin(directory=str(tmp_path), git_commit=commit, git_dirty=False)
    (tmp_path / "network.py").write_text("second")
    assert origin(tmp_path) == Origin(directory=str(tmp_path), git_commit=commit, git_dirty=True)


def test_a_directory_whose_name_is_not_text_is_told_by_its_bytes(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    folder.mkdir()
    assert origin(folder).directory == f"{tmp_path}/\\xff"
