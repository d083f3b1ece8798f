"""What a parent process does about a worker that shows no progress: real processes, with seconds for minutes."""

import re
import signal

from attempts import Start

from jobs.run_dir import KilledFor
from scheduler.log import last_lines

BLOCKS = "os.read(os.pipe()[0], 1)"  # for ever: after a signal Python goes on with the read, as in a network's forward


def test_a_worker_that_hangs_is_asked_to_stop(start: Start) -> None:
    run = start(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); {BLOCKS}", hang_s=0.2)
    record = run.wait()
    assert (record.exit_code, record.stop_requested, record.killed_for) == (75, True, None)
    assert record.hung_s is not None
    assert 6 * 0.2 < record.hung_s <= record.elapsed_s


def test_one_that_does_not_stop_is_killed_for_it_after_its_grace_time(start: Start) -> None:
    run = start(f"signal.signal(signal.SIGTERM, lambda *_: None); {BLOCKS}", hang_s=0.2, grace_s=0.2)
    record = run.wait()
    assert (record.signal, record.killed_for) == (signal.SIGKILL, KilledFor.HANG)
    assert record.hung_s is not None
    assert record.elapsed_s >= record.hung_s + 0.2


def test_the_log_says_so(start: Start) -> None:
    run = start(BLOCKS, hang_s=0.2)
    run.wait()
    (said,) = last_lines(run.files.log, 1)
    assert re.fullmatch(r"--- no progress for \ds: asked to stop ---", said)


def test_a_slow_worker_that_gets_on_is_left_alone(start: Start) -> None:
    """It takes longer than a worker may load, were it not for its heartbeat."""
    run = start("for _ in range(16): touch('attempts/1/heartbeat'); time.sleep(0.1)", hang_s=0.2)
    record = run.wait()
    assert (record.exit_code, record.hung_s) == (0, None)
    assert record.elapsed_s > 6 * 0.2


def test_a_worker_that_somebody_asked_to_stop_does_not_hang_in_its_grace_time(start: Start) -> None:
    run = start("signal.signal(signal.SIGTERM, lambda *_: None); touch('ready'); " + BLOCKS, hang_s=0.2, grace_s=1.4)
    run.wait_for("ready")
    run.supervisor.stop(run.attempt)
    record = run.wait()
    assert (record.killed_for, record.hung_s) == (KilledFor.GRACE, None)
