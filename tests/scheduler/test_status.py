"""What `gpuq status --json` tells: an interface, with the names and values of the issue's example."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from builders import NOON, ORIGIN, GiB, MiB, attempt, metrics, prediction, spec

from jobs.run_dir import Peak, Progress, write_record
from scheduler import disk
from scheduler.device import CpuDevice, Snapshot
from scheduler.device_view import DeviceView, write_view
from scheduler.errors import DeviceUnreadableError, UnknownJobError
from scheduler.estimate import modelled
from scheduler.home import Home
from scheduler.process import Identity, own_identity
from scheduler.states import Outcome
from scheduler.status import StatusReport, elapsed_s, report
from scheduler.store import Store

TEN_PAST_NOON = datetime(2026, 11, 21, 12, 10, tzinfo=UTC)
SNAPSHOT = Snapshot(
    name="cpu (2 cores)",
    kind="cpu",
    total_bytes=8 * GiB,
    used_by_gpuq_bytes=400 * MiB,
    used_by_others_bytes=2 * GiB,
    headroom_bytes=512 * MiB,
    threads=2,
)


class Machine(CpuDevice):
    def __init__(self, error: str | None = None) -> None:
        super().__init__()
        self.error = error

    def snapshot(self, workers: Mapping[int, int]) -> Snapshot:
        if self.error is not None:
            raise DeviceUnreadableError(self.error)
        return msgspec.structs.replace(SNAPSHOT, used_by_worker=dict(workers))


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """A store at noon."""
    opened = Store(home.store, now=lambda: NOON)
    yield opened
    opened.close()


def told(home: Home, store: Store, ids: Sequence[int] | None = None, **options: Any) -> Any:
    """The report as it is printed, read again."""
    made = report(home, store, options.pop("device", Machine()), TEN_PAST_NOON, store.jobs(ids), **options)
    return msgspec.json.decode(msgspec.json.encode(made))


def run_one(store: Store) -> int:
    [job_id], _ = store.submit([spec("resv1-easy", epochs=200, priority=2)], ORIGIN)
    store.set_estimate(job_id, modelled({"all": 400 * MiB}, parameters=11_000_000))
    store.place(job_id, 460 * MiB, prediction())
    store.set_pid(job_id, 1, 4300)
    store.mark_running(job_id, 1, Progress(parameters=11_000_000, resumed_from_step=0, steps=20_000))
    store.record_metrics(job_id, 1, [metrics(12, accuracy=0.81, peak_bytes=390 * MiB)], eta_s=5400.0)
    return job_id


def test_a_running_job_is_told_as_in_the_example(home: Home, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _folder: 5 * GiB)
    job_id = run_one(store)
    store.register_dispatcher(own_identity())
    write_view(home.device_view, DeviceView(snapshot=SNAPSHOT, reserved_bytes=460 * MiB))
    assert told(home, store) == {
        "dispatcher": {"running": True, "pid": own_identity().pid},
        "queue": {"paused": False, "reason": None},
        "disk": {"folder": str(home.path), "free_bytes": 5 * GiB, "error": None},
        "device": {
            "name": "cpu (2 cores)",
            "kind": "cpu",
            "total_bytes": 8 * GiB,
            "used_by_gpuq_bytes": 400 * MiB,
            "used_by_others_bytes": 2 * GiB,
            "headroom_bytes": 512 * MiB,
            "budget_bytes": 8 * GiB - 2 * GiB - 512 * MiB,
            "reserved_bytes": 460 * MiB,
            "error": None,
            "warning": None,
        },
        "jobs": [
            {
                "id": job_id,
                "name": "resv1-easy",
                "network": "resv1",
                "priority": 2,
                "state": "running",
                "outcome": None,
                "reason": None,
                "paused": False,
                "epoch": 12,
                "epochs": 200,
                "step": 1200,
                "steps": 20_000,
                "best_validation_accuracy": 0.81,
                "test_accuracy": None,
                "parameters": 11_000_000,
                "estimate_bytes": 400 * MiB,
                "estimate_basis": "modelled",
                "reservation_bytes": 460 * MiB,
                "peak_bytes": 390 * MiB,
                "elapsed_s": 600.0,
                "eta_s": 5400.0,
                "submitted_at": NOON,
                "finished_at": None,
                "run_dir": str(home.path / "runs" / "1"),
                "attempts": [
                    {
                        "number": 1,
                        "pid": 4300,
                        "started_at": NOON,
                        "ended_at": None,
                        "outcome": None,
                        "reason": None,
                        "exit_code": None,
                        "reservation_bytes": 460 * MiB,
                        "peak_bytes": 390 * MiB,
                    }
                ],
            }
        ],
    }


def test_what_is_unknown_of_a_new_job_is_null(home: Home, store: Store) -> None:
    store.submit([spec()], ORIGIN)
    [job] = told(home, store)["jobs"]
    unknown = {name for name, value in job.items() if value is None}
    assert unknown >= {
        "outcome",
        "best_validation_accuracy",
        "test_accuracy",
        "parameters",
        "estimate_bytes",
        "estimate_basis",
        "reservation_bytes",
        "peak_bytes",
        "elapsed_s",
        "eta_s",
        "finished_at",
    }
    assert (job["state"], job["epoch"], job["attempts"]) == ("queued", 0, [])


def test_a_finished_job_tells_how_and_expects_nothing(home: Home, store: Store) -> None:
    job_id = run_one(store)
    [live] = store.live_attempts()
    store.end_attempt(
        live, Outcome.SUCCEEDED, None, requeue=False, exit_code=0, peak_bytes=395 * MiB, test_accuracy=0.8
    )
    [job] = told(home, store)["jobs"]
    assert (job["id"], job["state"], job["outcome"], job["test_accuracy"]) == (job_id, "finished", "succeeded", 0.8)
    assert (job["eta_s"], job["finished_at"], job["peak_bytes"]) == (None, NOON, 395 * MiB)


def test_a_queued_job_says_why_it_waits(home: Home, store: Store) -> None:
    [job_id], _ = store.submit([spec()], ORIGIN)
    store.register_dispatcher(own_identity())
    store.set_reason(job_id, "needs 6 GiB, 2 GiB free")
    assert told(home, store)["jobs"][0]["reason"] == "needs 6 GiB, 2 GiB free"


def test_a_queued_job_waits_for_a_dispatcher_when_there_is_none(home: Home, store: Store) -> None:
    [job_id], _ = store.submit([spec()], ORIGIN)
    store.set_reason(job_id, "needs 6 GiB, 2 GiB free")  # said by one that has died since
    assert told(home, store)["jobs"][0]["reason"] == "no dispatcher is running"


def test_a_paused_job_says_so_with_or_without_a_dispatcher(home: Home, store: Store) -> None:
    [job_id], _ = store.submit([spec()], ORIGIN)
    store.pause(job_id)
    [job] = told(home, store)["jobs"]
    assert (job["state"], job["paused"], job["reason"]) == ("queued", True, "paused")


def test_a_job_that_is_to_be_paused_says_so_while_it_runs(home: Home, store: Store) -> None:
    store.pause(run_one(store))
    [job] = told(home, store)["jobs"]
    assert (job["state"], job["paused"]) == ("running", True)


def test_a_paused_queue_says_why_and_its_jobs_wait_for_that(home: Home, store: Store) -> None:
    store.submit([spec()], ORIGIN)
    store.register_dispatcher(own_identity())
    store.pause_queue("2 jobs have failed (--max-failures 2)")
    report = told(home, store)
    assert report["queue"] == {"paused": True, "reason": "2 jobs have failed (--max-failures 2)"}
    assert (report["jobs"][0]["paused"], report["jobs"][0]["reason"]) == (False, "the queue is paused")


def test_only_the_jobs_that_were_asked_for_are_told(home: Home, store: Store) -> None:
    store.submit([spec("a"), spec("b"), spec("c")], ORIGIN)
    assert [job["name"] for job in told(home, store, ids=[3, 1])["jobs"]] == ["c", "a"]
    with pytest.raises(UnknownJobError):
        told(home, store, ids=[4])


def test_a_dispatcher_that_died_does_not_run(home: Home, store: Store) -> None:
    store.register_dispatcher(Identity(pid=own_identity().pid, start_ticks=1, boot_id="an earlier boot"))
    assert told(home, store)["dispatcher"] == {"running": False, "pid": None}


def test_the_view_of_a_dispatcher_that_died_is_not_believed(home: Home, store: Store) -> None:
    old = msgspec.structs.replace(SNAPSHOT, name="as it was then")
    write_view(home.device_view, DeviceView(snapshot=old, reserved_bytes=GiB))
    device = told(home, store)["device"]
    assert (device["name"], device["reserved_bytes"]) == ("cpu (2 cores)", 0)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b'{"snapshot": 1}'])
def test_a_broken_view_is_replaced_by_a_look_of_our_own(home: Home, store: Store, content: bytes) -> None:
    store.register_dispatcher(own_identity())
    home.device_view.write_bytes(content)
    assert told(home, store)["device"]["name"] == "cpu (2 cores)"


def test_what_live_attempts_reserve_is_told_without_a_dispatcher_too(home: Home, store: Store) -> None:
    run_one(store)
    assert told(home, store)["device"]["reserved_bytes"] == 460 * MiB


def test_a_device_that_cannot_be_read_says_so(home: Home, store: Store) -> None:
    device = told(home, store, device=Machine("GPU 0 cannot be read: Driver Not Loaded"))["device"]
    assert (device["error"], device["total_bytes"]) == ("GPU 0 cannot be read: Driver Not Loaded", 0)


def test_a_live_job_tells_what_its_worker_waits_for(home: Home, store: Store) -> None:
    job_id = run_one(store)
    notice = home.run_dir(job_id).attempt(1).notice
    write_record(home.run_dir(job_id).attempt(1).peak, Peak(peak_bytes=1))  # so that there is a folder
    notice.reserve()
    assert told(home, store)["jobs"][0]["reason"] is None
    notice.put_up("waiting for room: 9 B needed in /run")
    assert told(home, store)["jobs"][0]["reason"] == "waiting for room: 9 B needed in /run"
    store.end_attempt(
        store.attempts(job_id)[0], Outcome.LOST, "it vanished", requeue=False, exit_code=None, peak_bytes=1
    )
    assert told(home, store)["jobs"][0]["reason"] == "it vanished"


# -- how long a job has taken -----------------------------------------------------------------------------------


def test_no_attempt_has_taken_no_time() -> None:
    assert elapsed_s([], TEN_PAST_NOON) is None


def test_attempts_add_up_and_the_pauses_between_them_do_not() -> None:
    ended = attempt(Outcome.STOPPED, started_at="2026-11-21T11:00:00Z", ended_at="2026-11-21T11:05:00Z")
    assert elapsed_s([ended, attempt(number=2, started_at=NOON)], TEN_PAST_NOON) == 900.0


def test_a_clock_that_went_back_does_not_show() -> None:
    assert elapsed_s([attempt(started_at="2026-11-21T13:00:00Z")], TEN_PAST_NOON) == 0.0


def test_a_report_is_read_back_as_it_was(home: Home, store: Store) -> None:
    run_one(store)
    made = report(home, store, Machine(), TEN_PAST_NOON, store.jobs())
    assert msgspec.json.decode(msgspec.json.encode(made), type=StatusReport) == made
