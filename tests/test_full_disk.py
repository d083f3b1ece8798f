"""A night on a disk that is really full for a while, with real processes: it waits, says why, and goes on."""

import zipfile
from collections.abc import Iterator

import pytest
from gpuq_process import Gpuq, eventually
from small_disk import SmallDisk, mounted

from jobs.run_dir import Metrics, read_metrics
from jobs.spec import decode
from scheduler.store import Store

JOB = """
[model]
name = "baseline-130k"
width = 4
[data]
name = "shapes"
limit = 400
[train]
epochs = 20
batch_size = 32
checkpoint_every = "0s"
[resources]
memory = "1 GiB"
"""
MEASURED = ("images_per_s", "elapsed_s", "peak_bytes")  # what no two runs share


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """With room for the figures that the job learns."""
    with mounted(mebibytes=128) as made:
        yield made


class Apart(Gpuq):
    """With every command in a process of its own, whose end lets go of a store on a full disk."""

    here = Gpuq.__call__


@pytest.fixture
def gpuq(disk: SmallDisk) -> Iterator[Gpuq]:
    """Its state directory is on the small disk."""
    made = Apart(disk.path)
    yield made
    disk.make_room()
    made.clean_up()


def learned(gpuq: Gpuq, job_id: int) -> list[dict[str, float]]:
    """The lines of metrics without what is measured by the clock."""
    fields = [name for name in Metrics.__struct_fields__ if name not in MEASURED]
    lines = read_metrics(gpuq.home.run_dir(job_id).metrics)
    return [{name: getattr(line, name) for name in fields} for line in lines]


def test_training_waits_for_room_says_so_and_ends_as_if_there_had_been_room(gpuq: Gpuq, disk: SmallDisk) -> None:
    file = gpuq.write("job.toml", JOB)
    gpuq("submit", "--device", "cpu", file)
    eventually(lambda: len(learned(gpuq, 1)) >= 2, "the job trains")
    disk.fill()

    eventually(lambda: "waiting for room" in (gpuq.job(1)["reason"] or ""), "status says what the job waits for")
    assert gpuq.job(1)["reason"].endswith(f"needed in {gpuq.home.run_dir(1).last_checkpoint.parent}")
    assert len(learned(gpuq, 1)) < 20
    for checkpoint in (gpuq.home.run_dir(1).last_checkpoint, gpuq.home.run_dir(1).previous_checkpoint):
        with zipfile.ZipFile(checkpoint) as archive:
            assert archive.testzip() is None
    assert f"no room in {gpuq.home.path}" in gpuq("status").stdout
    assert gpuq("logs", "1").stdout.startswith("--- attempt 1")
    refused = gpuq("submit", "--device", "cpu", file)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith(f"gpuq: {gpuq.home.path}: no room on the disk")

    disk.make_room()
    gpuq("submit", "--device", "cpu", file)  # one that is left in peace
    assert gpuq("wait", "1", "2").returncode == 0
    assert learned(gpuq, 1) == learned(gpuq, 2)
    assert "waited" in gpuq("logs", "1").stdout
    store = Store(gpuq.home.store)
    store.check()
    assert [len(store.attempts(job_id)) for job_id in (1, 2)] == [1, 1]
    store.close()


class TestWithoutADispatcher:
    @pytest.fixture
    def full(self, gpuq: Gpuq, disk: SmallDisk) -> Gpuq:
        """A queue of one job on a full disk."""
        assert gpuq("submit", "--no-start", gpuq.write("job.toml", JOB)).returncode == 0
        disk.fill()
        return gpuq

    def test_a_command_that_would_change_the_queue_is_refused_in_one_line(self, full: Gpuq) -> None:
        for command in (["submit", full.folder / "job.toml"], ["cancel", "1"], ["pause", "--all"]):
            done = full(*command)
            said = "no room on the disk (0 B free, 1.0 MiB needed); make room and try again"
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"gpuq: {full.home.path}: {said}\n"

    def test_status_and_logs_still_tell(self, full: Gpuq) -> None:
        assert full.job(1)["state"] == "queued"
        assert full("logs", "1").returncode == 0

    def test_clean_makes_room_of_a_job_that_has_ended(self, gpuq: Gpuq, disk: SmallDisk) -> None:
        gpuq("submit", "--no-start", gpuq.write("job.toml", JOB))
        gpuq("cancel", "1")
        gpuq.home.run_dir(1).create(decode(gpuq.home.run_dir(1).spec.read_bytes()))
        gpuq.home.run_dir(1).previous_checkpoint.write_bytes(bytes(200_000))
        disk.fill()
        done = gpuq("clean", "1")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("removed jobs 1: ")
        assert not gpuq.home.run_dir(1).path.exists()

    def test_once_there_is_room_all_is_as_it_was(self, full: Gpuq, disk: SmallDisk) -> None:
        full("cancel", "1")
        disk.make_room()
        store = Store(full.home.store)
        store.check()
        assert [job.outcome for job in store.jobs()] == [None]
        store.close()
