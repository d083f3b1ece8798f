"""The dispatcher in the background: started so that it outlives the terminal, found and stopped again."""

import signal
import subprocess
import sys
import time

from jobs.run_dir import open_private
from scheduler.home import Home
from scheduler.process import Identity, environment
from scheduler.store import Store

POLL_S = 0.1


def running_dispatcher(store: Store) -> Identity | None:
    """The dispatcher at its post, if there is one."""
    identity = store.dispatcher()
    return identity if identity is not None and identity.is_alive() else None


def ensure_dispatcher(
    home: Home, store: Store, device: str, memory_bytes: int | None, max_failures: int | None = None
) -> tuple[int, bool]:
    """The pid of the dispatcher, and whether it had to be started. Raises DamagedStoreError if it could not work."""
    running = running_dispatcher(store)
    if running is not None:
        return running.pid, False
    store.check(quick=True)
    return start_dispatcher(home, device, memory_bytes, max_failures), True


def start_dispatcher(home: Home, device: str, memory_bytes: int | None, max_failures: int | None = None) -> int:
    """Start a dispatcher in a session of its own; its pid. If another holds the post it leaves at once."""
    options = ["--device", device]
    if memory_bytes is not None:
        options += ["--memory", f"{memory_bytes}B"]
    if max_failures is not None:
        options += ["--max-failures", str(max_failures)]
    with open_private(home.dispatcher_log, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "scheduler.cli", "start", "--foreground", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.path,
            env={**environment(), "GPUQ_HOME": str(home.path)},
            start_new_session=True,
        )
    return process.pid


def stop_dispatcher(identity: Identity) -> None:
    """Ask it to stop, and wait until it has: its jobs checkpoint first, each within its grace time."""
    identity.send(signal.SIGTERM)
    while identity.is_alive():
        time.sleep(POLL_S)
