"""Folders for tests."""

import os
import tempfile

MEMORY = "/dev/shm"


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """In memory where the machine has a folder for that: every transition of a store waits for its disk."""
    return tempfile.TemporaryDirectory(prefix="gpuq-test-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
