"""The status for people, where no terminal limits it: nothing fails, and the facts are there."""

from typing import Any

import pytest
from builders import NOON, GiB, MiB
from msgspec.structs import replace
from rich.console import RenderableType

from scheduler import render
from scheduler.disk import DiskReport
from scheduler.states import Outcome, State
from scheduler.status import AttemptReport, DeviceReport, DispatcherReport, JobReport, QueueReport, StatusReport

DEVICE = DeviceReport(
    name="cpu (2 cores)",
    kind="cpu",
    total_bytes=8 * GiB,
    used_by_gpuq_bytes=1 * GiB,
    used_by_others_bytes=3 * GiB,
    headroom_bytes=512 * MiB,
    budget_bytes=4 * GiB,
    reserved_bytes=2 * GiB,
)
NOBODY = DispatcherReport(running=False, pid=None)
MOVING = QueueReport(paused=False, reason=None)
ROOMY = DiskReport(folder="/home", free_bytes=GiB)


def job(**fields: Any) -> JobReport:
    """A job that has just been queued, unless `fields` say otherwise."""
    values: dict[str, Any] = dict.fromkeys(JobReport.__struct_fields__)
    values |= {"id": 7, "name": "resv1-easy", "network": "resv1", "priority": 0, "state": "queued", "paused": False}
    values |= {"epoch": 0, "epochs": 200, "step": 0, "submitted_at": NOON, "run_dir": "/home/me/runs/7", "attempts": []}
    return JobReport(**(values | fields))


def live(**fields: Any) -> AttemptReport:
    values = dict.fromkeys(AttemptReport.__struct_fields__)
    values |= {"number": 1, "started_at": NOON, "reservation_bytes": 2 * GiB}
    return AttemptReport(**(values | fields))


RUNNING = job(
    state="running",
    epoch=12,
    best_validation_accuracy=0.8125,
    estimate_bytes=1 * GiB,
    estimate_basis="modelled",
    reservation_bytes=2 * GiB,
    peak_bytes=900 * MiB,
    elapsed_s=720.0,
    eta_s=5400.0,
    attempts=[live(pid=4300, peak_bytes=900 * MiB)],
)
FAILED = job(
    state="finished",
    outcome="failed",
    reason="RuntimeError: boom (2 times at the same place)",
    finished_at=NOON,
    attempts=[live(pid=4300, ended_at=NOON, outcome="failed", exit_code=1, reason="RuntimeError: boom")],
)


def shown(what: RenderableType, width: int = 200) -> str:
    console = render.console()
    console.width = width
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def status(
    *jobs: JobReport,
    device: DeviceReport = DEVICE,
    dispatcher: DispatcherReport = NOBODY,
    queue: QueueReport = MOVING,
    disk: DiskReport = ROOMY,
) -> str:
    report = StatusReport(dispatcher=dispatcher, queue=queue, disk=disk, device=device, jobs=list(jobs))
    return shown(render.status(report))


def test_a_full_disk_is_named_with_what_is_needed_there() -> None:
    full = DiskReport(folder="/home", free_bytes=0, error="no room in /home: 0 B free, 1.0 MiB needed")
    assert "disk: no room in /home: 0 B free, 1.0 MiB needed; jobs wait until there is" in status(disk=full)
    assert "disk" not in status()


def test_the_device_line_tells_who_uses_what() -> None:
    line = next(line for line in status().splitlines() if "cpu (2 cores)" in line)
    for fact in ("1.0 GiB used by gpuq", "2.0 GiB reserved", "3.0 GiB by others", "4.0 GiB free", "8.0 GiB"):
        assert fact in line


def test_an_unreadable_device_tells_why_nothing_starts() -> None:
    broken = DeviceReport(
        name="cuda",
        kind="cuda",
        total_bytes=0,
        used_by_gpuq_bytes=0,
        used_by_others_bytes=0,
        headroom_bytes=0,
        budget_bytes=0,
        reserved_bytes=0,
        error="GPU 0 cannot be read: Driver Not Loaded",
    )
    assert "GPU 0 cannot be read: Driver Not Loaded; nothing is started" in status(device=broken)


def test_a_running_dispatcher_is_named_by_its_pid() -> None:
    assert "running (pid 4242)" in status(dispatcher=DispatcherReport(running=True, pid=4242))


def test_waiting_jobs_without_a_dispatcher_come_with_the_way_out() -> None:
    assert "`gpuq start`" in status(job())


def test_paused_jobs_need_no_dispatcher() -> None:
    assert "`gpuq start`" not in status(job(paused=True, reason="paused"))


def test_a_paused_queue_needs_no_dispatcher_but_to_be_resumed() -> None:
    text = status(job(), queue=QueueReport(paused=True, reason="2 jobs have failed"))
    assert "queue: paused: 2 jobs have failed; `gpuq resume --all` goes on" in text
    assert "`gpuq start`" not in text


def test_what_still_runs_while_the_queue_is_paused_needs_a_dispatcher() -> None:
    assert "`gpuq start`" in status(RUNNING, queue=QueueReport(paused=True, reason=None))


def test_a_held_job_is_shown_as_paused_and_one_that_still_runs_as_running() -> None:
    assert "paused" in render.state_text(job(paused=True)).plain
    assert "running" in render.state_text(job(paused=True, state="running")).plain


def test_finished_jobs_need_no_dispatcher() -> None:
    assert "`gpuq start`" not in status(FAILED)


def test_an_empty_queue_says_how_to_fill_it() -> None:
    assert "no jobs; `gpuq submit FILE.toml` queues some" in status()


def test_a_running_job_is_a_row_of_its_facts() -> None:
    row = next(line for line in status(RUNNING).splitlines() if "resv1-easy" in line)
    for fact in ("7", "resv1", "running", "12/200", "81.2 %", "1.0 GiB → 900 MiB", "12m", "1h 30m"):
        assert fact in row


def test_a_waiting_job_says_why() -> None:
    assert "needs 6.0 GiB, 2.0 GiB free" in status(job(reason="needs 6.0 GiB, 2.0 GiB free"))


def test_a_users_network_is_shown_without_its_folders() -> None:
    text = status(job(network="/home/me/nets/mine.py:build"))
    assert "mine.py:build" in text
    assert "/home/me/nets" not in text


@pytest.mark.parametrize(
    "fields",
    [{"state": state} for state in State if state is not State.FINISHED]
    + [{"state": "finished", "outcome": outcome} for outcome in Outcome],
    ids=str,
)
@pytest.mark.parametrize("width", [200, 40])
def test_every_state_and_outcome_is_shown_by_its_name(fields: dict[str, str], width: int) -> None:
    one = job(**fields)
    report = StatusReport(dispatcher=NOBODY, queue=MOVING, disk=ROOMY, device=DEVICE, jobs=[one])
    word = fields.get("outcome") or fields["state"]
    assert word in shown(render.status(report))
    assert word in shown(render.job_details(one, []))
    shown(render.status(report), width)  # in a narrow terminal it may be cut short


def test_brackets_in_names_and_reasons_are_no_markup() -> None:
    text = status(job(name="a[red]b", reason="[/bold] expected [0.8, 0.1, 0.1] :warning:"))
    assert "a[red]b" in text
    assert "[/bold] expected [0.8, 0.1, 0.1] :warning:" in text


def test_training_counted_in_iterations_shows_them() -> None:
    assert render.progress(job(epochs=None, step=6400, steps=64_000)) == "6400/64000 it"


def test_details_tell_everything_about_a_job() -> None:
    text = shown(render.job_details(RUNNING, []))
    for fact in ("7 resv1-easy", "12/200 ep", "1.0 GiB (modelled)", "900 MiB", "/home/me/runs/7", "4300", "live"):
        assert fact in text


def test_what_is_reserved_is_what_is_left_of_it() -> None:
    fewer = replace(RUNNING, attempts=[live(reservation_bytes=1 * GiB)])
    assert "2.0 GiB" in fact(RUNNING, "memory reserved")
    assert fact(fewer, "memory reserved").endswith("1.0 GiB (2.0 GiB at first)")


def fact(one: JobReport, name: str) -> str:
    lines = shown(render.job_details(one, [])).splitlines()
    return next(line.rstrip() for line in lines if line.startswith(name))


def test_details_of_a_failure_end_with_the_log() -> None:
    text = shown(render.job_details(FAILED, ["Traceback (most recent call last):", "RuntimeError: boom [sic]"]))
    assert "RuntimeError: boom (2 times at the same place)" in text
    assert text.rstrip().endswith("RuntimeError: boom [sic]")


def test_details_leave_out_what_is_not_known() -> None:
    text = shown(render.job_details(job(), []))
    assert "None" not in text
    assert "test accuracy" not in text


def test_without_a_terminal_a_row_stays_on_one_line() -> None:
    assert render.console().width >= 120


def test_a_terminal_of_80_columns_still_shows_ids_progress_memory_and_reasons() -> None:
    waiting = job(id=8, reason="needs 6.0 GiB, 2.0 GiB unreserved")
    text = shown(render.JobTable([RUNNING, waiting]), 80)
    row = next(line for line in text.splitlines() if "running" in line)
    for fact in ("7", "resv1-easy", "12/200", "81.2 %", "1.0 GiB → 900 MiB", "1h 30m"):
        assert fact in row
    assert "8: needs 6.0 GiB, 2.0 GiB unreserved" in text


def test_what_a_name_or_a_log_holds_does_not_command_the_terminal() -> None:
    hostile = "\x1b[2J\n\u202e.py:build"
    told = (shown(status(job(network=f"/home/{hostile}"))), shown(render.job_details(job(network=hostile), [hostile])))
    assert [text for text in told if not text.replace("\n", "").isprintable()] == []
    assert "\\x1b[2J\\n\\u202e.py:build" in told[1]
