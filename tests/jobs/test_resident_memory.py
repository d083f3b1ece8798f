"""What a process reads of its own resident memory."""

import subprocess
import sys

import torch

from jobs.resident import peak_resident_bytes, resident_bytes

MiB = 1 << 20
TOUCHED = 32 * MiB


def test_a_peak_stays_when_memory_is_given_back() -> None:
    before = resident_bytes()
    kept = torch.ones(TOUCHED, dtype=torch.uint8)
    assert resident_bytes() >= before + TOUCHED - MiB
    del kept
    assert peak_resident_bytes() >= before + TOUCHED - MiB


def test_what_the_parent_of_a_process_holds_is_not_its_own() -> None:
    """This one holds torch."""
    script = "from jobs.resident import peak_resident_bytes; print(peak_resident_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert peak < 64 * MiB < resident_bytes()
