"""The short form of `benchmarks/chaos.py`: a few kills, at times that vary, and a verdict that never does."""

import json
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parent.parent / "benchmarks" / "chaos.py"
KILLS = 3  # with this seed, unless one ends by itself first: a parent process, a dispatcher, a worker


def test_after_kills_at_random_nothing_is_lost_doubled_or_different(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    short = ["--kills", str(KILLS), "--seconds", "60", "--epochs", "2", "--seed", "1240"]
    done = subprocess.run([sys.executable, str(CHAOS), *short, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert sum(found["kills"].values()) >= KILLS
    assert found["attempts"] >= found["trainings"] > 0
