"""Who a process is, beyond its pid."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from waiting import eventually

from scheduler.process import Identity, boot_id, environment, identify, own_identity, resident_bytes

Cat = Callable[[list[str]], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Cat]:
    """Starts processes that live until they are killed, in groups of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(command: list[str]) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start_one
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def cat(start: Cat) -> "subprocess.Popen[bytes]":
    return start(["cat"])


def identity_of(process: "subprocess.Popen[bytes]") -> Identity:
    identity = identify(process.pid)
    assert identity is not None
    return identity


def test_this_process_is_alive_and_itself() -> None:
    assert own_identity().is_alive()
    assert own_identity() == own_identity()


def test_a_living_process_can_be_signalled(cat: "subprocess.Popen[bytes]") -> None:
    assert identity_of(cat).send(signal.SIGTERM)
    assert cat.wait(timeout=20) == -signal.SIGTERM


def test_a_dead_process_is_not_alive(cat: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(cat)
    cat.kill()
    cat.wait()
    assert not identity.is_alive()
    assert identify(cat.pid) is None


def test_a_zombie_is_not_alive(cat: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(cat)
    cat.kill()  # and not waited for: its entry stays
    eventually(lambda: not identity.is_alive(), "the kernel to end it")
    assert identify(cat.pid) == identity


@pytest.mark.parametrize("other", [{"start_ticks": 1}, {"boot_id": "an earlier boot"}], ids=["reused pid", "reboot"])
@pytest.mark.parametrize("send", [Identity.send, Identity.send_group])
def test_a_process_that_is_another_than_it_was_is_never_signalled(
    cat: "subprocess.Popen[bytes]",
    other: dict[str, object],
    send: Callable[[Identity, signal.Signals], bool],
) -> None:
    was = replace(identity_of(cat), **other)  # type: ignore[arg-type]
    assert not was.is_alive()
    assert not send(was, signal.SIGKILL)
    assert identity_of(cat).is_alive()


@pytest.mark.parametrize("name", ["a) Z 1 (b", "tab\there", "new\nline"])
def test_the_name_of_a_program_does_not_confuse_its_identity(start: Cat, tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to(shutil.which("cat") or "/bin/cat")
    process = start([str(program)])
    identity = identity_of(process)
    assert identity.is_alive()
    assert identity.start_ticks >= own_identity().start_ticks


def test_a_group_is_signalled_as_a_whole(start: Cat) -> None:
    shell = start(["sh", "-c", "sleep 600 & echo started; wait"])
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"started\n"
    assert identity_of(shell).send_group(signal.SIGKILL)
    assert shell.stdout.read() == b""  # ends only when the shell and its child have both let go of it


def test_an_identity_names_this_boot() -> None:
    assert own_identity().boot_id == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_resident_memory_of_a_process_is_what_psutil_says() -> None:
    assert resident_bytes(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


def test_a_dead_process_holds_no_memory(cat: "subprocess.Popen[bytes]") -> None:
    cat.kill()
    cat.wait()
    assert resident_bytes(cat.pid) == 0


def test_a_relative_pythonpath_means_the_same_in_another_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}lib{os.pathsep}/opt/x")
    assert environment()["PYTHONPATH"] == os.pathsep.join([str(tmp_path), str(tmp_path / "lib"), "/opt/x"])
