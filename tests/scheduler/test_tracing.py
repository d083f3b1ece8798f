"""The child process that traces jobs, with a script in its place that does what the network's name says."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from unittest.mock import Mock

import pytest
from builders import spec
from hand_clock import HandClock
from waiting import eventually

from jobs.trace_messages import Reply
from scheduler.device import CpuDevice
from scheduler.log import HEAD_BYTES, TAIL_BYTES
from scheduler.process import identify
from scheduler.tracing import Failed, Limits, Tracer

ESTIMATOR = dedent(
    """
    import json, os, signal, sys

    def say(type, **fields):
        print(json.dumps({"type": type, "key": request["key"], **fields}), flush=True)

    def forked():
        if os.fork() == 0:
            return True
        print("forked", file=sys.stderr, flush=True)
        return False

    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        does = request["spec"]["model"]["name"]
        if does == "exits":
            sys.exit("out of luck")
        elif does == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif does == "crashes where others were":
            if number > 0:
                os.kill(os.getpid(), signal.SIGSEGV)
        elif does == "is killed once" or does == "is killed":
            if does == "is killed" or not os.path.exists("killed"):
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        elif does == "loops":
            os.kill(os.getpid(), signal.SIGXCPU)  # as the kernel does at the limit
        elif does == "hangs":
            signal.pause()
        elif does == "hangs in its trace":
            say("Tracing", resident_bytes=0)
            signal.pause()
        elif does == "forks and hangs":
            forked()
            signal.pause()
        elif does == "forks and exits":
            if forked():
                signal.pause()
            os._exit(3)
        elif does == "closes its pipe":
            os.close(1)
            signal.pause()
        elif does == "babbles":
            print("hello?", flush=True)
        elif does == "babbles for ever":
            while True:
                os.write(1, bytes(1 << 16))
        elif does == "prints for ever":
            say("Tracing", resident_bytes=0)
            while True:
                os.write(2, b"x" * (1 << 16))
        elif does in ("grows", "grows in a fork", "grows in its preparation"):
            if "preparation" not in does:
                say("Tracing", resident_bytes=0)
            if "fork" not in does or forked():
                grown = bytearray(b"x" * (64 << 20))
                print("grown", file=sys.stderr, flush=True)
            signal.pause()
        elif does == "cannot":
            say("Reply", error="ModelError: no network called 'cannot'")
            continue
        say("Reply", components={"pid": os.getpid()}, parameters=5)
    """
)
LIMITS = Limits(prepare_s=900.0, trace_s=60.0, trace_cpu_s=5, memory_bytes=48 << 20)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def tracer(tmp_path: Path, clock: HandClock) -> Iterator[Tracer]:
    command = [sys.executable, "-I", "-S", "-c", ESTIMATOR]
    made = Tracer(CpuDevice(), tmp_path / "cache", tmp_path / "log", clock, command, LIMITS)
    yield made
    made.close()


Known = dict[int, Reply | Failed]


@pytest.fixture
def trace(tracer: Tracer) -> Callable[..., Known]:
    """What becomes of jobs, asked for by what the estimator is to do with each."""

    def trace_all(*does: str) -> Known:
        for key, name in enumerate(does, start=1):
            tracer.ask(key, spec(network=name), prepare=False)
        known: Known = {}

        def all_known() -> bool:
            known.update(tracer.poll(timeout_s=0.05))
            return not tracer.pending

        eventually(all_known, "all replies")
        return known

    return trace_all


def traced_by(known: Known, key: int) -> int:
    """The pid of the process that answered."""
    reply = known[key]
    assert isinstance(reply, Reply), reply
    return reply.components["pid"]


def test_a_reply_comes_back_under_its_key(trace: Callable[..., Known]) -> None:
    known = trace("fine", "cannot")
    assert isinstance(known[1], Reply)
    assert known[1].parameters == 5
    assert known[2] == Failed("ModelError: no network called 'cannot'")


def test_one_process_traces_many_jobs(trace: Callable[..., Known]) -> None:
    known = trace(*["fine"] * 30)
    assert len({traced_by(known, key) for key in range(1, 31)}) == 1


def test_the_process_is_ended_when_there_is_nothing_left_to_trace(trace: Callable[..., Known]) -> None:
    assert identify(traced_by(trace("fine"), 1)) is None


def test_nothing_is_known_when_nothing_was_asked(tracer: Tracer) -> None:
    assert tracer.poll() == {}


def test_polling_does_not_wait_for_a_reply(tracer: Tracer) -> None:
    tracer.ask(1, spec(network="hangs"), prepare=False)
    assert tracer.poll() == {}
    assert tracer.pending == {1}


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("exits", "exits: tracing it ended its process with exit code 1: out of luck"),
        ("crashes", "crashes: tracing it ended its process by SIGSEGV"),
        ("loops", "loops: tracing it took more than 5 s of the CPU"),
        ("forks and exits", "forks and exits: tracing it ended its process with exit code 3: forked"),
        ("closes its pipe", "closes its pipe: tracing it ended its process by SIGKILL"),
        ("babbles", "babbles: tracing it wrote something else where the reply belongs"),
        ("babbles for ever", "babbles for ever: tracing it wrote something else where the reply belongs"),
    ],
)
def test_a_job_that_ends_its_tracing_fails_alone(trace: Callable[..., Known], does: str, reason: str) -> None:
    known = trace("fine", does, "fine", "fine")
    assert known[2] == Failed(reason)
    assert traced_by(known, 1) != traced_by(known, 3) == traced_by(known, 4)


def test_one_crash_after_the_other_is_survived(trace: Callable[..., Known]) -> None:
    known = trace("exits", "exits", "exits", "fine")
    assert [isinstance(known[key], Failed) for key in (1, 2, 3, 4)] == [True, True, True, False]


def test_a_job_is_not_blamed_for_what_those_before_it_left_in_their_process(trace: Callable[..., Known]) -> None:
    known = trace("fine", "crashes where others were")
    assert traced_by(known, 2) != traced_by(known, 1)


def test_a_job_whose_tracing_somebody_killed_is_traced_again(
    trace: Callable[..., Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does when memory runs out, whoever took it."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(trace("is killed once")[1], Reply)


def test_one_whose_tracing_is_killed_again_fails(
    trace: Callable[..., Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert trace("is killed")[1] == Failed("is killed: tracing it ended its process by SIGKILL")


def test_the_data_of_a_job_are_given_up_after_their_time(tracer: Tracer, clock: HandClock) -> None:
    tracer.ask(1, spec(network="hangs"), prepare=False)
    clock.now += LIMITS.prepare_s
    assert tracer.poll() == {}
    clock.now += 1
    assert tracer.poll() == {1: Failed("hangs: preparing its data took more than 900 s")}


def test_a_trace_is_given_up_after_its_own_shorter_time(tracer: Tracer, clock: HandClock) -> None:
    def given_up() -> Known:
        clock.now += 10
        return tracer.poll(timeout_s=0.05)

    tracer.ask(1, spec(network="hangs in its trace"), prepare=False)
    assert eventually(given_up, "its end") == {1: Failed("hangs in its trace: tracing it took more than 60 s")}
    assert clock.now < LIMITS.prepare_s


def test_the_time_of_a_trace_begins_when_its_data_are_prepared(tracer: Tracer, clock: HandClock) -> None:
    tracer.ask(1, spec(network="hangs in its trace"), prepare=False)
    clock.now += LIMITS.prepare_s
    assert tracer.poll(timeout_s=20.0) == {}
    clock.now += LIMITS.trace_s
    assert tracer.poll() == {}


def test_the_time_of_a_job_begins_when_those_before_it_are_done(tracer: Tracer, clock: HandClock) -> None:
    tracer.ask(1, spec(network="fine"), prepare=False)
    tracer.ask(2, spec(network="hangs"), prepare=False)
    clock.now += LIMITS.prepare_s
    eventually(lambda: 1 in tracer.poll(0.05), "the first reply")
    clock.now += LIMITS.prepare_s
    assert tracer.poll() == {}


def test_those_after_a_job_that_hangs_are_traced(tracer: Tracer, clock: HandClock) -> None:
    tracer.ask(1, spec(network="hangs"), prepare=False)
    tracer.ask(2, spec(network="fine"), prepare=False)
    clock.now += LIMITS.prepare_s + 1
    assert list(tracer.poll()) == [1]
    eventually(lambda: 2 in tracer.poll(0.05), "the second reply")


@pytest.mark.parametrize("does", ["grows", "grows in a fork"])
def test_a_trace_that_takes_too_much_memory_is_ended(trace: Callable[..., Known], does: str) -> None:
    known = trace(does, "fine")
    assert known[1] == Failed(f"{does}: tracing it took more than 48.0 MiB of memory")
    assert isinstance(known[2], Reply)


def test_data_may_take_what_memory_they_need(tracer: Tracer, tmp_path: Path) -> None:
    tracer.ask(1, spec(network="grows in its preparation"), prepare=False)
    eventually(lambda: "grown" in (tmp_path / "log").read_text(), "the process to grow")
    assert tracer.poll() == {}


def test_the_log_stays_small_whatever_a_network_prints(tracer: Tracer, clock: HandClock, tmp_path: Path) -> None:
    tracer.ask(1, spec(network="prints for ever"), prepare=False)
    assert tracer.poll(timeout_s=20.0) == {}  # tracing has begun
    eventually(lambda: (tmp_path / "log").stat().st_size >= HEAD_BYTES, "a full log")
    clock.now += LIMITS.trace_s + 1
    (failed,) = tracer.poll().values()
    assert isinstance(failed, Failed)
    assert failed.reason.endswith("took more than 60 s")
    assert (tmp_path / "log").stat().st_size < HEAD_BYTES + 2 * TAIL_BYTES


def test_a_log_that_has_grown_full_starts_anew(trace: Callable[..., Known], tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (HEAD_BYTES + 1))
    trace("exits")
    assert (tmp_path / "log").read_text() == "out of luck\n"


def test_a_process_that_says_nothing_has_no_last_words_of_another(trace: Callable[..., Known]) -> None:
    known = trace("exits", "crashes")
    assert known[2] == Failed("crashes: tracing it ended its process by SIGSEGV")


def test_asking_never_blocks_however_many_jobs_wait_for_one_that_hangs(tracer: Tracer) -> None:
    """More than a pipe holds, three times over."""
    large = {"padding": "x" * 1000}
    tracer.ask(1, spec(network="hangs"), prepare=False)
    for key in range(2, 200):
        tracer.ask(key, spec(network="fine", options=large), prepare=False)
    assert len(tracer.pending) == 199


def test_closing_ends_what_a_network_has_started_too(tracer: Tracer, tmp_path: Path) -> None:
    """Or the pipe that both hold would never end."""
    tracer.ask(1, spec(network="forks and hangs"), prepare=False)
    eventually(lambda: "forked" in (tmp_path / "log").read_text(), "the network to fork")
    tracer.close()
    assert tracer.poll() == {}


def test_a_traced_job_sees_no_gpu_and_one_thread(tmp_path: Path) -> None:
    seen = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
    script = f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(str([os.environ[n] for n in {seen}]))"
    tracer = Tracer(CpuDevice(), tmp_path, tmp_path / "log", estimator=[sys.executable, "-c", script])
    tracer.ask(1, spec(), prepare=False)
    eventually(lambda: tracer.poll(0.05), "its end")
    assert (tmp_path / "seen").read_text() == "['', '1']"


def test_automatic_precision_is_decided_here(tmp_path: Path) -> None:
    """The tracing process cannot see the GPU that would decide it."""

    class Gpu(CpuDevice):
        def auto_precision(self) -> str:
            return "bf16"

    script = "import json, sys; r = json.loads(sys.stdin.readline()); sys.exit(r['precision'])"
    tracer = Tracer(Gpu(), tmp_path, tmp_path / "log", estimator=[sys.executable, "-c", script])
    tracer.ask(1, spec(), prepare=False)
    known = eventually(lambda: tracer.poll(0.05), "its end")
    assert known == {1: Failed("resv1: tracing it ended its process with exit code 1: bf16")}


def test_a_process_that_could_not_be_started_is_started_with_the_next_look(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("scheduler.tracing.TracingProcess", Mock(side_effect=BlockingIOError))
        with pytest.raises(BlockingIOError):
            tracer.ask(1, spec(network="crashes"), prepare=False)
    assert isinstance(eventually(lambda: tracer.poll(0.1), "a reply")[1], Failed)


def test_what_failed_is_told_though_the_process_for_the_others_cannot_be_started_yet(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer.ask(1, spec(network="crashes"), prepare=False)
    tracer.ask(2, spec(network="fine"), prepare=False)
    tracer.poll()
    known: Known = {}
    with monkeypatch.context() as patched:
        patched.setattr("scheduler.tracing.TracingProcess", Mock(side_effect=BlockingIOError))
        with contextlib.suppress(BlockingIOError):
            eventually(lambda: known.update(tracer.poll(0.1)) or known, "a reply")
    eventually(lambda: known.update(tracer.poll(0.1)) or tracer.pending == set(), "the rest")
    assert {key: type(reply) for key, reply in known.items()} == {1: Failed, 2: Reply}
