"""Where jobs are submitted from: the directory, and the git commit it is at."""

import os
import subprocess
from pathlib import Path

from scheduler.records import Origin

_TIMEOUT_S = 2.0


def origin(directory: Path) -> Origin:
    """The directory, with its commit if it is in a git repository and git answers in time."""
    name = os.fsencode(directory).decode(errors="backslashreplace")  # as text, whatever its bytes
    try:
        said = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return Origin(directory=name)
    commits = [line.removeprefix("# branch.oid ") for line in said if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return Origin(directory=name)
    dirty = any(not line.startswith("#") for line in said)
    return Origin(directory=name, git_commit=commits[0], git_dirty=dirty)
