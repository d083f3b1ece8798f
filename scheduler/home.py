"""Where gpuq keeps its state: `$GPUQ_HOME`, by default under the user's XDG data directory."""

import os
from pathlib import Path

from jobs.checking import is_text
from jobs.errors import InputError
from jobs.run_dir import RunDir, make_private_folder


class Home:
    """Every path of the state directory. It is its owner's alone (mode 0700)."""

    def __init__(self, path: Path) -> None:
        self.path = path = path.expanduser().absolute()
        self.store = path / "gpuq.db"
        self.dispatcher_lock = path / "dispatcher.lock"
        self.dispatcher_log = path / "dispatcher.log"
        self.estimator_log = path / "estimator.log"
        self.calibrations = path / "calibrations.json"
        self.device_view = path / "device.json"  # as the dispatcher last saw it
        self.cache = path / "cache"
        self.runs = path / "runs"
        self.removed = path / "removed"  # run directories that `gpuq clean` is about to delete

    def run_dir(self, job_id: int) -> RunDir:
        return RunDir(self.runs / str(job_id))

    def run_ids(self) -> list[int]:
        """The jobs that have a run directory."""
        return sorted(int(path.name) for path in self.runs.glob("*") if path.name.isdecimal())

    def create(self) -> "Home":
        """Make the folder if there is none. Raises InputError if its path is not text, which records hold it as."""
        if not is_text(str(self.path)):
            raise InputError([f"GPUQ_HOME: expected a path in UTF-8, got {str(self.path)!a}"])
        make_private_folder(self.path)
        return self


def default_home() -> Home:
    """`$GPUQ_HOME`, else `$XDG_DATA_HOME/gpuq`, else `~/.local/share/gpuq`."""
    if chosen := os.environ.get("GPUQ_HOME"):
        return Home(Path(chosen))
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Home(Path(data) / "gpuq")
