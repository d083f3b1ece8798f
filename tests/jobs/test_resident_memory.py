"""What a process reads of its own resident memory."""

import mmap
import subprocess
import sys

from jobs.resident import peak_resident_bytes, resident_bytes

MiB = 1 << 20
TOUCHED = 32 * MiB


def test_a_peak_stays_when_memory_is_given_back() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, TOUCHED) as kept:  # pages of its own: malloc may have some left that are resident already
        kept.write(b"x" * TOUCHED)
        assert resident_bytes() >= before + TOUCHED - MiB
    assert peak_resident_bytes() >= before + TOUCHED - MiB


def test_what_the_parent_of_a_process_holds_is_not_its_own() -> None:
    """This one holds torch, by its conftest."""
    script = "from jobs.resident import peak_resident_bytes; print(peak_resident_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert peak < 64 * MiB < resident_bytes()
