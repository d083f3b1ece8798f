"""What is kept of a queued job beside the store, and a queue restored from it alone."""

from contextlib import closing
from pathlib import Path

import pytest
from builders import ORIGIN, spec

from jobs.errors import GpuqError
from scheduler import service
from scheduler.cleaning import clean
from scheduler.copies import leave_copies
from scheduler.device import CpuDevice
from scheduler.home import Home
from scheduler.rebuild import Rebuilt, rebuild
from scheduler.records import Job
from scheduler.service import Stop, serve
from scheduler.states import State
from scheduler.store import Store
from scheduler.submission import Submission, submit_files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text('priority = 3\n[model]\nname = "resv1"\n[matrix]\n"train.seed" = [0, 1]\n')
    return path


def submit(home: Home, *files: Path) -> Submission:
    return submit_files(home, files, start=False, device="cpu", memory_bytes=None)


def lost_and_rebuilt(home: Home, store: Store) -> tuple[list[Job], Rebuilt]:
    """The jobs of a store that is made anew where there is none any more."""
    store.close()
    home.store.unlink()
    told = rebuild(home)
    return Store(home.store).jobs(), told


def serve_once(home: Home, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher that takes up its work and leaves."""
    monkeypatch.setattr(service.signal, "signal", lambda *_: None)
    serve(home, store, CpuDevice(), Stop(), is_done=lambda: True)


def test_jobs_that_never_ran_are_restored_as_they_were_submitted(home: Home, store: Store, file: Path) -> None:
    submit(home, file)
    before = store.jobs()
    restored, _ = lost_and_rebuilt(home, store)
    assert [job.priority for job in restored] == [3, 3]
    assert restored == before


def test_a_job_that_was_paused_before_it_ran_is_queued(home: Home, store: Store, file: Path) -> None:
    submit(home, file)
    store.pause(1)
    restored, _ = lost_and_rebuilt(home, store)
    assert (restored[0].state, restored[0].wish) == (State.QUEUED, None)


def test_a_job_that_was_removed_is_not_restored(home: Home, store: Store, file: Path) -> None:
    submit(home, file)
    store.cancel(1)
    clean(home, store, [1])
    restored, _ = lost_and_rebuilt(home, store)
    assert [job.id for job in restored] == [2]


def test_a_store_made_after_a_loss_is_given_the_jobs_that_it_does_not_know(
    home: Home, store: Store, file: Path
) -> None:
    submit(home, file)
    before = store.jobs()
    store.close()
    for path in home.path.glob("gpuq.db*"):
        path.unlink()
    submit(home, file)  # nobody has noticed
    told = rebuild(home)
    assert ([job.id for job in told.restored], told.aside) == ([1, 2], None)
    with closing(Store(home.store)) as filled:
        assert [job.id for job in filled.jobs()] == [1, 2, 3, 4]
        assert filled.jobs()[:2] == before
    with pytest.raises(GpuqError, match="is in order: there is nothing to rebuild"):
        rebuild(home)


def test_a_torn_copy_is_left_out_and_told(home: Home, store: Store, file: Path) -> None:
    submit(home, file)
    home.run_dir(1).spec.write_bytes(b"")
    restored, told = lost_and_rebuilt(home, store)
    assert [job.id for job in restored] == [2]
    assert ["runs/1/spec.json" in reason for reason in told.left_out] == [True]


def test_a_copy_that_finds_no_room_does_not_undo_the_submission(home: Home, store: Store, file: Path) -> None:
    home.runs.write_text("in the way")
    assert [job.id for job in submit(home, file).jobs] == [1, 2]
    assert len(store.jobs()) == 2


def test_a_dispatcher_copies_what_a_crash_kept_a_submit_from_copying(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit([spec("crashed")], ORIGIN)
    serve_once(home, store, monkeypatch)
    restored, _ = lost_and_rebuilt(home, store)
    assert [(job.name, job.submitted_from) for job in restored] == [("crashed", ORIGIN.directory)]


def test_a_dispatcher_mends_what_a_power_cut_has_torn(
    home: Home, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(home, file)
    torn = home.run_dir(1)
    for path in (torn.spec, torn.submission):
        path.write_bytes(b"\0" * path.stat().st_size)
    before = store.jobs()
    serve_once(home, store, monkeypatch)
    restored, _ = lost_and_rebuilt(home, store)
    assert restored == before


def test_a_copy_that_is_there_is_left_alone(home: Home, store: Store, file: Path) -> None:
    submit(home, file)
    before = home.run_dir(1).spec.stat().st_ino
    leave_copies(home, store.jobs())
    assert home.run_dir(1).spec.stat().st_ino == before
