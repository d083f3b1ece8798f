"""A store cut in half, and with bits flipped anywhere: it is refused in one line; and rebuilt, it has every job."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from gpuq_process import Gpuq
from scratch import scratch_folder

from scheduler.errors import REBUILD, DamagedStoreError, StoreError
from scheduler.home import Home
from scheduler.rebuild import rebuild
from scheduler.store import Store
from scheduler.submission import submit_files

JOB = 'name = "job"\n[model]\nname = "resv1"\n[matrix]\n"train.seed" = [1, 2, 3]\n'
FLIPS = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A state directory with three jobs that never ran, one of them cancelled."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "a.toml").write_text(JOB)
    home = Home(folder / "home").create()
    submit_files(home, [folder / "a.toml"], start=False, device="cpu", memory_bytes=None)
    with closing(Store(home.store)) as store:
        store.cancel(2)
    with closing(sqlite3.connect(home.store)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all of it in the one file
    return home


def test_every_command_refuses_half_a_store_in_one_line_and_leaves_it_as_it_is(gpuq: Gpuq) -> None:
    file = gpuq.write("a.toml", JOB)
    assert gpuq("submit", "--no-start", file).returncode == 0
    store = gpuq.home.store
    store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
    damaged = store.read_bytes()
    for command in (["submit", file], ["status"], ["cancel", "1"], ["start"], ["start", "--foreground"]):
        done = gpuq(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert [line.endswith(REBUILD) for line in done.stderr.splitlines()] == [True], done.stderr
        assert store.read_bytes() == damaged
    rebuild(gpuq.home)
    assert gpuq("status").stdout.count("queued") == 3


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 10, 100))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_store_with_flipped_bits_works_or_is_refused_and_rebuilt_with_every_job(whole: Home, seed: int) -> None:
    with scratch_folder() as folder:
        home = Home(Path(folder) / "home")
        shutil.copytree(whole.path, home.path)
        flip(home.store, random.Random(seed))
        damaged = home.store.read_bytes()
        try:
            with closing(Store(home.store)) as store:
                store.check()
        except DamagedStoreError:
            assert home.store.read_bytes() == damaged
            rebuild(home)
            with closing(Store(home.store)) as store:
                assert {job.id: job.spec.train.seed for job in store.jobs()} == {1: 1, 2: 2, 3: 3}
        except StoreError:  # a flipped bit has made it one of another gpuq
            assert home.store.read_bytes() == damaged
