"""In the worker's place: "trains" three steps, from where the job stood, and leaves what a worker leaves. It gives
back some of its reservation.

It complains if another works on the same job. It does not die with its parent process: it then lingers, for whoever
starts the job again to get rid of it before.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 3
LEFT_BYTES = 50 << 20
METRICS = Path("metrics.jsonl")


def write(name: str, **record: object) -> None:
    temporary = Path(f"{name}.stand-in")
    temporary.write_text(json.dumps(record))
    temporary.replace(name)


def whole_lines() -> list[str]:
    if not METRICS.exists():
        return []
    return [line for line in METRICS.read_text().splitlines(keepends=True) if line.endswith("\n")]


def line(step: int) -> str:
    accuracies = {"train_accuracy": step / STEPS, "validation_accuracy": step / STEPS}
    losses = {"train_loss": 1 / step, "validation_loss": 1 / step}
    measured = {"lr": 0.1, "images_per_s": 1.0, "elapsed_s": float(step), "peak_bytes": 1 << 20}
    return json.dumps({"epoch": step, "step": step, **accuracies, **losses, **measured}) + "\n"


def train(attempt: str) -> None:
    lines = whole_lines()
    METRICS.write_text("".join(lines))
    progress = {"parameters": 1, "resumed_from_step": len(lines), "steps": STEPS}
    write(f"{attempt}/progress.json", **progress)
    for step in range(len(lines) + 1, STEPS + 1):
        time.sleep(float(os.environ.get("GPUQ_TEST_STEP_S", "0")))
        with METRICS.open("a") as file:
            file.write(line(step))
    write(f"{attempt}/progress.json", **progress, reservation_bytes=LEFT_BYTES)
    best = {"best_epoch": STEPS, "best_step": STEPS, "best_train_accuracy": 1.0, "best_validation_accuracy": 1.0}
    tested = {"test_loss": 0.5, "test_accuracy": 0.75, "parameters": 1, "stopped_early": False}
    write("result.json", epochs=STEPS, steps=STEPS, **best, **tested)


def main(run: str, number: str) -> None:
    os.chdir(run)
    with Path("alone").open("a") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Path("two at once").touch()
        with Path("began.txt").open("a") as began:
            began.write(f"{number}\n")
        train(f"attempts/{number}")
        if os.getppid() != int(os.environ["GPUQ_PARENT_PID"]):
            signal.alarm(60)
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
