"""Mutated job files, as the long proof has them: `benchmarks/fuzz_job_files.py --files 10000`."""

import re
import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).parents[1] / "benchmarks" / "fuzz_job_files.py"


def test_every_batch_of_mutated_job_files_is_queued_whole_or_refused_with_lines_that_name_its_files() -> None:
    command = [sys.executable, str(FUZZER), "--files", "200", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.search("accepted [1-9].*refused [1-9]", done.stdout)
