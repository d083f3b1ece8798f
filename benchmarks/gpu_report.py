"""What the runs of `gpu.py` say of its predictions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import alternatives
import harness
from harness import Accuracy, MiB, Row, accuracy

from jobs.run_dir import ExitCode
from scheduler.estimate import measured as measured_estimate


def succeeded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("measured", {}).get("outcome") == ExitCode.SUCCEEDED.name]


def accuracies(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print how each figure did, overall and by family, and what runs held beside the allocator; the same as JSON."""
    figures = [one for one in ("process", "reserved", "allocated") if f"{one}_bytes" in known[0]["measured"]]
    overall = {figure: judge(known, figure) for figure in figures} | repeats(known)
    for name in alternatives.ALTERNATIVES:
        if with_it := [row for row in known if row["alternatives"].get(name) is not None]:
            overall[name] = judge(with_it, name)
    harness.show("figure", overall)
    families = {figure: harness.by_family(known, partial(judge, figure=figure)) for figure in figures}
    for figure, judged in families.items():
        harness.show(f"family, {figure}", judged)
    print("worst:", "; ".join(worst := harness.worst(known, error)))
    measured = [row["measured"] for row in known if "reserved_bytes" in row["measured"]]
    beside = sorted((one["process_bytes"] - one["reserved_bytes"]) // MiB for one in measured)
    told = sorted(one["context_bytes"] // MiB for one in measured if one["context_bytes"] is not None)
    print("beside the allocator, MiB:", beside)
    print("contexts that workers told, MiB:", told)
    return {
        "measured": len(known),
        "worst": worst,
        "figures": harness.as_json(overall),
        "families": {figure: harness.as_json(judged) for figure, judged in families.items()},
        "beside_the_allocator_mib": beside,
        "contexts_told_mib": told,
    }


def predicted(row: Row, figure: str) -> float:
    """gpuq's own figure of a job's `process`, `reserved` or `allocated` bytes, or an alternative's of the process."""
    components = row["components"]
    beside_process = {"process": 0, "reserved": components.get("context", 0)}
    beside_process["allocated"] = beside_process["reserved"] + components.get("allocator slack", 0)
    if figure in beside_process:
        return float(row["estimate_bytes"] - beside_process[figure])
    return float(row["alternatives"][figure] + components.get("context", components.get("process", 0)))


def judge(rows: Sequence[Row], figure: str = "process") -> Accuracy:
    """How a figure did; what would be reserved by it is the figure and gpuq's margin."""
    told = [predicted(row, figure) for row in rows]
    measure = f"{figure}_bytes" if f"{figure}_bytes" in rows[0]["measured"] else "process_bytes"
    reserved = [guess * (1 + row["margin"]) for guess, row in zip(told, rows, strict=True)]
    return accuracy(told, [row["measured"][measure] for row in rows], reserved)


def repeats(rows: Sequence[Row]) -> dict[str, Accuracy]:
    """How well the second run is told by what gpuq keeps of the first, its worker's own report."""
    known = [row for row in rows if "process_bytes" in row.get("repeated", {})]
    if not known:
        return {}
    first = [row["measured"]["reported_bytes"] for row in known]
    held = [measured_estimate(peak).reservation_bytes for peak in first]
    return {"repeated": accuracy(first, [row["repeated"]["process_bytes"] for row in known], held)}


def error(row: Row) -> float:
    return float(row["estimate_bytes"] / row["measured"]["process_bytes"] - 1)
