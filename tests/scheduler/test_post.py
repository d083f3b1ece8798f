"""The dispatcher's post: one holder per state directory, and how it is given up."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import ORIGIN, spec
from hand_clock import HandClock
from steps import Queue

from scheduler.background import ensure_dispatcher, running_dispatcher, stop_dispatcher
from scheduler.errors import DamagedStoreError, DispatcherRunningError
from scheduler.home import Home
from scheduler.process import Identity, identify, own_identity
from scheduler.service import IDLE_S, Idleness, at_post
from scheduler.store import Store
from scheduler.submission import submit_files

HOLDER = """
import signal, sys
from pathlib import Path
from scheduler.errors import DispatcherRunningError
from scheduler.home import Home
from scheduler.service import at_post
from scheduler.store import Store

home = Home(Path(sys.argv[1]))
try:
    with at_post(home, Store(home.store)):
        print("at post", flush=True)
        signal.pause()
except DispatcherRunningError:
    print("refused", flush=True)
"""


def damaged(store: Store) -> Store:
    """Where few commands look: among the events."""
    store.submit([spec()], ORIGIN)
    page = store._db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()[0]
    size = store._db.execute("PRAGMA page_size").fetchone()[0]
    store.close()
    with store.path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    return Store(store.path)


def start_holder(home: Home) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(home.path)], stdout=subprocess.PIPE, text=True)


def said(holder: "subprocess.Popen[str]") -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


@pytest.fixture
def holder(home: Home) -> Iterator["subprocess.Popen[str]"]:
    """Another process at the post."""
    process = start_holder(home)
    assert said(process) == "at post"
    yield process
    process.kill()
    process.communicate()


def test_there_is_no_second_dispatcher(home: Home, store: Store, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(DispatcherRunningError, match="a dispatcher is running already"), at_post(home, store):
        pass
    assert store.dispatcher() == identify(holder.pid)


def test_of_several_at_once_one_gets_the_post(home: Home) -> None:
    several = [start_holder(home) for _ in range(4)]
    answers = sorted(said(process) for process in several)
    for process in several:
        process.kill()
        process.communicate()
    assert answers == ["at post", "refused", "refused", "refused"]


def test_a_killed_dispatcher_leaves_the_post_free(home: Home, store: Store, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    assert running_dispatcher(store) is None
    with at_post(home, store):
        assert running_dispatcher(store) == own_identity()


def test_the_post_is_given_up_at_the_end(home: Home, store: Store) -> None:
    with at_post(home, store):
        pass
    assert store.dispatcher() is None
    with at_post(home, store):
        pass


def test_the_post_is_given_up_after_an_error(home: Home, store: Store) -> None:
    with pytest.raises(ZeroDivisionError), at_post(home, store):
        _ = 1 / 0
    assert store.dispatcher() is None


# -- the dispatcher in the background ---------------------------------------------------------------------------


def test_a_dispatcher_of_an_earlier_boot_does_not_run(store: Store) -> None:
    store.register_dispatcher(Identity(own_identity().pid, own_identity().start_ticks, "an earlier boot"))
    assert running_dispatcher(store) is None


def test_a_running_dispatcher_is_not_started_again(home: Home, store: Store) -> None:
    store.register_dispatcher(own_identity())
    assert ensure_dispatcher(home, store, "cpu", None) == (own_identity().pid, False)


def test_stopping_waits_until_the_dispatcher_has_gone(store: Store, holder: "subprocess.Popen[str]") -> None:
    identity = running_dispatcher(store)
    assert identity is not None
    stop_dispatcher(identity)
    assert not identity.is_alive()
    assert holder.wait() == -signal.SIGTERM


# -- when a dispatcher has had nothing to do for a while --------------------------------------------------------


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def idleness(store: Store, clock: HandClock) -> Idleness:
    store.register_dispatcher(own_identity())
    return Idleness(store, clock)


def test_a_dispatcher_with_nothing_to_do_stays_a_while(store: Store, clock: HandClock, idleness: Idleness) -> None:
    assert not idleness.is_done()
    clock.now += IDLE_S - 1
    assert not idleness.is_done()
    assert store.dispatcher() == own_identity()


def test_then_it_gives_up_the_post(store: Store, clock: HandClock, idleness: Idleness) -> None:
    assert not idleness.is_done()
    clock.now += IDLE_S
    assert idleness.is_done()
    assert store.dispatcher() is None


def test_work_in_between_starts_the_while_anew(store: Store, clock: HandClock, idleness: Idleness) -> None:
    assert not idleness.is_done()
    clock.now += IDLE_S
    [job_id], _ = store.submit([spec()], ORIGIN)
    assert not idleness.is_done()
    store.cancel(job_id)
    assert not idleness.is_done()


@pytest.mark.parametrize(
    "hold", [lambda store: store.pause(1), lambda store: store.pause_queue()], ids=["job", "queue"]
)
def test_what_is_paused_is_nothing_to_do(
    store: Store, clock: HandClock, idleness: Idleness, hold: Callable[[Store], object]
) -> None:
    store.submit([spec()], ORIGIN)
    hold(store)
    assert not idleness.is_done()
    clock.now += IDLE_S
    assert idleness.is_done()


def test_a_live_job_keeps_it_at_its_post_while_the_queue_is_paused(
    queue: Queue, store: Store, clock: HandClock, idleness: Idleness
) -> None:
    queue.running()
    store.pause_queue()
    assert not idleness.is_done()
    clock.now += IDLE_S
    assert not idleness.is_done()


def test_a_job_resumed_at_the_last_moment_keeps_it_at_its_post(queue: Queue, store: Store, clock: HandClock) -> None:
    store.register_dispatcher(own_identity())
    job_id = queue.paused()

    def resuming() -> float:
        if clock.now >= IDLE_S:
            store.resume(job_id)
        return clock.now

    idleness = Idleness(store, resuming)
    assert not idleness.is_done()
    clock.now = IDLE_S
    assert not idleness.is_done()


def test_a_job_submitted_at_the_last_moment_keeps_it_at_its_post(store: Store) -> None:
    """After it has looked for work, and before it leaves."""
    store.register_dispatcher(own_identity())
    times = iter([0.0, 0.0, IDLE_S])

    def clock() -> float:
        if (now := next(times)) == IDLE_S:
            store.submit([spec()], ORIGIN)
        return now

    idleness = Idleness(store, clock)
    assert not idleness.is_done()
    assert not idleness.is_done()
    assert store.dispatcher() == own_identity()


def test_nobody_takes_the_post_over_a_damaged_store(home: Home, store: Store) -> None:
    store = damaged(store)
    with pytest.raises(DamagedStoreError, match="`gpuq doctor --rebuild`"), at_post(home, store):
        pytest.fail("at the post")
    assert store.dispatcher() is None


def test_no_dispatcher_is_started_over_a_damaged_store(home: Home, store: Store) -> None:
    with pytest.raises(DamagedStoreError, match="`gpuq doctor --rebuild`"):
        ensure_dispatcher(home, damaged(store), "cpu", None)
    assert not home.dispatcher_log.exists()


def test_nothing_is_queued_in_a_damaged_store(home: Home, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[model]\nname = "resv1"\n')
    store = damaged(store)
    with pytest.raises(DamagedStoreError, match="`gpuq doctor --rebuild`"):
        submit_files(home, [file], start=False, device="cpu", memory_bytes=None)
    assert len(store.jobs()) == 1
