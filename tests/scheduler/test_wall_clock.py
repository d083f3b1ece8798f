"""The wall clock is for people: when it steps, nothing times out, hangs or is counted anew."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import Start
from bench import Bench

import jobs
import scheduler
from jobs.run_dir import ExitCode
from scheduler.states import Outcome, State

DAY_S = 86_400.0
READS = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("datetime", "now")}
# These show a person what the time is, or how long ago something was; `gpuq clean` goes by days.
FOR_PEOPLE = {"clock.py", "foreground.py", "overview.py", "comparison.py", "cleaning.py"}


def reads_of_the_wall_clock(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in READS:
            yield file.name


def test_the_wall_clock_is_read_only_where_it_is_written_down_or_shown() -> None:
    rooms = [Path(str(room.__file__)).parent for room in (jobs, scheduler)]
    files = [file for room in rooms for file in room.rglob("*.py")]
    assert {name for file in files for name in reads_of_the_wall_clock(file)} <= FOR_PEOPLE


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_dispatcher_whose_clock_steps_by_days_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    stepping = itertools.count(1.7e9, step_s)
    monkeypatch.setattr("time.time", lambda: next(stepping))
    job_id = bench.started()
    bench.begin(job_id)
    for _ in range(5):
        bench.tick()
    assert bench.job(job_id).state is State.RUNNING
    assert not bench.engine.asked_to_stop
    bench.end(job_id, exit_code=ExitCode.SUCCEEDED)
    bench.tick()
    assert bench.job(job_id).outcome is Outcome.SUCCEEDED


def test_a_worker_whose_heartbeats_have_odd_times_is_not_taken_for_hung(start: Start) -> None:
    """Its clock steps back and forth by a day; only that something has changed counts."""
    run = start(
        """
        heartbeat = "attempts/1/heartbeat"
        for beat in range(16):
            touch(heartbeat)
            day = 86400 * (-1) ** beat
            os.utime(heartbeat, (time.time() + day, time.time() + day))
            time.sleep(0.1)
        """,
        hang_s=0.2,
    )
    record = run.wait()
    assert (record.exit_code, record.hung_s) == (0, None)
    assert record.elapsed_s > 6 * 0.2  # longer than it may take without a heartbeat
