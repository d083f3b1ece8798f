"""A job that misbehaves beside one that does not: the first fails alone. Real dispatchers and parents, and scripts.

What a worker makes of a network that raises or exits is in tests/jobs/test_worker.py.
"""

import pytest
from scripted import Night
from waiting import eventually

from scheduler import leftovers
from scheduler.log import HEAD_BYTES, TAIL_BYTES
from scheduler.states import Outcome

NEIGHBOUR = """
if job == 2:
    wait_for("go")
    succeed()
"""

HABITS = {
    "exits as if all were well": "sys.exit(0)",
    "leaves processes behind in sessions of their own": """
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
sys.exit(1)
""",
    "prints a gigabyte": """
for _ in range(1024 if attempt == 1 else 1):
    os.write(1, b"x" * (1 << 20))
sys.exit(1)
""",
}


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_only_the_job_that_misbehaves_suffers_and_nothing_of_it_is_left(night: Night, habit: str) -> None:
    dispatcher = night.begin(NEIGHBOUR + habit, jobs=2)
    eventually(night.output.exists, "the dispatcher to start")
    eventually(lambda: " job 1 job failed" in night.output.read_text(), "the first job to end", deadline_s=60.0)
    (night.home.run_dir(2).path / "go").touch()
    assert dispatcher.wait(timeout=60) == 1
    assert [job.outcome for job in night.jobs()] == [Outcome.FAILED, Outcome.SUCCEEDED]
    assert night.outcomes() == [Outcome.FAILED, Outcome.FAILED]
    assert list(leftovers.find(night.home.runs)) == []
    assert night.home.run_dir(1).log.stat().st_size <= 2 * (HEAD_BYTES + TAIL_BYTES + 200)


def test_one_that_catches_sigterm_is_killed_and_the_other_checkpoints(night: Night) -> None:
    script = """
    signal.signal(signal.SIGTERM, lambda *_: job == 2 and sys.exit(75))
    touch("ready")
    while True:
        signal.pause()
    """
    dispatcher = night.begin(script, jobs=2, grace_s=0.3)
    for job_id in (1, 2):
        eventually((night.home.run_dir(job_id).path / "ready").exists, f"job {job_id} to listen")
    dispatcher.terminate()
    assert dispatcher.wait(timeout=60) == 130
    assert [job.reason for job in night.jobs()] == ["stopped; goes on from its checkpoint"] * 2
