"""Estimates against what workers really used on the CPU, over jobs drawn before any of them runs.

    uv run python benchmarks/estimator.py --jobs 60 --seed 3 --minutes 30 --out benchmarks/results/estimator-cpu.json
    uv run python benchmarks/estimator.py --fit --seed 5 --out benchmarks/results/estimator-cpu-fit.json
    uv run python benchmarks/estimator.py --tensors --minutes 60 --out benchmarks/results/tensor-peaks-cpu.json

The jobs (`configurations.py`), their estimates and what other ways of predicting say (`alternatives.py`) are in the
file before the first job starts; then gpuq runs them, two at a time, and what each worker held at most is put beside.
With --fit, jobs of other networks, and the constants that would have suited them best.
With --tensors, no worker: traced tensor peaks against those of real steps (`tensor_peaks.py`).
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import alternatives
import configurations
import harness
import numpy as np
import tensor_peaks
from harness import Accuracy, MiB, Row, accuracy

from jobs.estimator import CPU_TRAINING_BYTES
from jobs.malloc import HOLES_SHARE

AT_ONCE = 2
OURS = "gpuq"


def estimate(
    drawn: Sequence[configurations.Configuration], files: Sequence[Path], home: Path, told: alternatives.Told
) -> list[dict[str, Any]]:
    """A row for each configuration: what gpuq and the alternatives predict of the worker's resident memory."""
    estimates = harness.estimated(home, files, "cpu")
    return [
        {
            "name": one.name,
            "family": one.family,
            "toml": one.toml,
            **{key: found[key] for key in ("estimate_bytes", "margin", "reservation_bytes", "components")},
            "alternatives": {
                name: None if size is None else size + found["components"]["process"]
                for name, size in told.get(one.name, {}).items()
            },
        }
        for one, found in zip(drawn, estimates, strict=True)
    ]


def with_outcomes(rows: Sequence[dict[str, Any]], jobs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of jobs that have ended, each with how, and what its worker held at most in any attempt."""
    return [
        {
            **row,
            "outcome": job["outcome"],
            "reason": job["reason"],
            "peak_bytes": max((one["peak_bytes"] or 0 for one in job["attempts"]), default=None),
            "attempts": len(job["attempts"]),
            "ended": [f"{one['outcome']}: {one['reason']}" for one in job["attempts"]],
        }
        for row in rows
        if (job := jobs.get(row["name"])) is not None
    ]


def judge(rows: Sequence[Row], method: str = OURS) -> Accuracy:
    """How a method did; an alternative is given gpuq's margin on top."""
    measured = [row["peak_bytes"] for row in rows]
    if method == OURS:
        predicted = [row["estimate_bytes"] for row in rows]
        return accuracy(predicted, measured, [row["reservation_bytes"] for row in rows])
    predicted = [row["alternatives"][method] for row in rows]
    return accuracy(
        predicted, measured, [guess * (1 + row["margin"]) for guess, row in zip(predicted, rows, strict=True)]
    )


def methods(rows: Sequence[Row]) -> dict[str, Accuracy]:
    """gpuq and the alternatives, each over the jobs that it has a figure for."""
    found = {OURS: judge(rows)}
    for name in alternatives.ALTERNATIVES:
        if known := [row for row in rows if row["alternatives"].get(name) is not None]:
            found[name] = judge(known, name)
    return found


def error(row: Row) -> float:
    return float(row["estimate_bytes"] / row["peak_bytes"] - 1)


def report(rows: Sequence[Row], drawn: int) -> dict[str, Any]:
    """Print how the estimates did; the same as JSON."""
    ended = [row for row in rows if row["outcome"] == "succeeded"]
    others = [f"{row['name']}: {row['outcome']}: {row['reason']}" for row in rows if row["outcome"] != "succeeded"]
    again = [f"{row['name']} ({row['ended'][0]})" for row in rows if row["attempts"] > 1]
    for row in ended:
        sizes = "".join(f"{row[key] / MiB:10.0f}" for key in ("estimate_bytes", "reservation_bytes", "peak_bytes"))
        print(f"{row['name']:28}{sizes} MiB {100 * error(row):+6.1f} %")
    print(f"{len(ended)} of {drawn} succeeded; needed another attempt: {again or 'none'}", *others, sep="\n")
    if not ended:
        return {"drawn": drawn, "succeeded": 0}
    overall, families = methods(ended), harness.by_family(ended, judge)
    harness.show("method", overall)
    harness.show("family", families)
    print("worst:", "; ".join(worst := harness.worst(ended, error)))
    return {
        "drawn": drawn,
        "succeeded": len(ended),
        "needed another attempt": again,
        "worst": worst,
        "methods": harness.as_json(overall),
        "families": harness.as_json(families),
    }


def best_constants(rows: Sequence[Row], rounds: int = 50) -> dict[str, float]:
    """The constants of `jobs.estimator` and `jobs.malloc` that make the sum of absolute relative errors the least.

    By iteratively reweighted least squares (Schlossmacher 1973), which is enough for two unknowns.
    """
    holes = np.array([row["components"]["allocator slack"] for row in rows], float)
    large_blocks = holes / HOLES_SHARE
    peaks = np.array([row["peak_bytes"] for row in rows], float)
    known = np.array([row["estimate_bytes"] for row in rows]) - CPU_TRAINING_BYTES - holes  # imports and tensors
    beyond = (peaks - known) / peaks
    terms = np.stack([np.ones(len(rows)), large_blocks], axis=1) / peaks[:, None]
    weights = np.ones(len(rows))
    for _ in range(rounds):
        found = np.linalg.lstsq(terms * weights[:, None], beyond * weights, rcond=None)[0]
        weights = np.maximum(abs(terms @ found - beyond), 1e-3) ** -0.5
    errors = terms @ found - beyond
    constants = {"CPU_TRAINING_BYTES": float(found[0]), "HOLES_SHARE": float(found[1])}
    return {**constants, "median_error": float(np.median(abs(errors))), "worst_under": float(errors.min())}


def workers(count: int, seed: int, minutes: float, save: Callable[[dict[str, Any]], None], *, fit: bool) -> None:
    """Draw, estimate, save, run, report, save."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:AT_ONCE])  # as many jobs as cores run at once
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        images = configurations.make_images(Path(folder) / "images")
        choices = configurations.FITTED if fit else configurations.TRIED
        drawn = configurations.draw(count, seed, "cpu", images, choices)
        files = [one.write(Path(folder)) for one in drawn]
        about = {**harness.about(), "seed": seed}
        rows = estimate(drawn, files, home, {} if fit else alternatives.ask(files))
        save({**about, "jobs": rows})
        rows = with_outcomes(rows, harness.run_queue(home, files, "cpu", 60 * minutes))
        summary = report(rows, count)
        if fit:
            summary["best constants"] = best_constants([row for row in rows if row["outcome"] == "succeeded"])
            print("best constants:", summary["best constants"])
        save({**about, "summary": summary, "jobs": rows})


def tensors(seed: int, minutes: float, save: Callable[[dict[str, Any]], None]) -> None:
    result = tensor_peaks.compare(seed, minutes)
    print(*tensor_peaks.show(result), sep="\n")
    save({**harness.about(), "seed": seed, **result})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="what the runs may take; the rest is left out")
    parser.add_argument("--fit", action="store_true", help="run jobs of other networks, and fit constants to them")
    parser.add_argument("--tensors", action="store_true", help="compare tensor peaks, without workers")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    save = partial(harness.write, options.out)
    if options.tensors:
        tensors(options.seed, options.minutes, save)
    else:
        workers(options.jobs, options.seed, options.minutes, save, fit=options.fit)


if __name__ == "__main__":
    main()
