"""Forks of the estimator's process, which answer for it: whatever a network changes in a process is gone with that.

torch does not go backward in a fork of a process in which it has, so the process itself traces nothing: it imports.
"""

import mmap
import os
from collections.abc import Callable
from typing import IO

import msgspec
from msgspec.structs import replace

from jobs.resident import resident_bytes
from jobs.trace_messages import Message, OutOfMemory, Reply, Request, Tracing
from jobs.worker import die_with_parent
from models.external import is_users_file

Answer = Callable[[Request, Callable[[Tracing], None]], Reply]


class Forks:
    """Respond to one request after the other: to one for a user's file in a fork of its own, to the others in one that
    is kept, and remembers what operators return.
    """

    def __init__(self, answer: Answer, replies: IO[bytes]) -> None:
        self._answer, self._replies = answer, replies
        self._kept: _KeptFork | None = None

    def respond(self, line: bytes) -> None:
        """Write the messages that answer a request; if a fork ends before it has replied, so does this process."""
        if is_users_file(_request(line).spec.model.name):
            self._respond_apart(line)
        else:
            self._kept = self._kept or _KeptFork(self._respond_here)
            self._kept.respond(line)

    def _respond_apart(self, line: bytes) -> None:
        has_replied = mmap.mmap(-1, 1)  # shared with the fork; a pipe could be held open by one of the network's own
        own_pid, shared_bytes = os.getpid(), resident_bytes()
        fork = os.fork()
        if fork == 0:
            die_with_parent(own_pid)
            self._respond_here(line, shared_bytes)
            has_replied[0] = 1
            os._exit(0)
        code = _exit_code(fork)
        if not has_replied[0]:
            _end_with(code)

    def _respond_here(self, line: bytes, shared_bytes: int) -> None:
        """In a fork, which ends if the network takes more memory than it may.

        `shared_bytes` were resident in the process that it was forked from.
        """
        request, own_pid = _request(line), os.getpid()

        def say(message: Message) -> None:
            if os.getpid() != own_pid:  # a network has forked, and this is the fork
                os._exit(0)
            if isinstance(message, Tracing):
                message = replace(message, resident_bytes=max(shared_bytes, message.resident_bytes))
            self._replies.write(msgspec.json.encode(message) + b"\n")
            self._replies.flush()

        reply: Reply | OutOfMemory
        try:
            reply = self._answer(request, say)
        except MemoryError:
            reply = OutOfMemory(key=request.key)
        say(reply)
        if isinstance(reply, OutOfMemory):
            os._exit(1)


class _KeptFork:
    """A fork that responds to one request after the other."""

    def __init__(self, respond: Callable[[bytes, int], None]) -> None:
        own_pid, shared_bytes = os.getpid(), resident_bytes()
        lines, self._lines = os.pipe()
        self._answered, answered = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            die_with_parent(own_pid)
            os.close(self._lines)
            for line in os.fdopen(lines, "rb"):
                respond(line, shared_bytes)
                os.write(answered, b".")
            os._exit(0)
        os.close(lines)
        os.close(answered)

    def respond(self, line: bytes) -> None:
        with os.fdopen(os.dup(self._lines), "wb") as pipe:
            pipe.write(line)
        if not os.read(self._answered, 1):
            _end_with(_exit_code(self._pid))


def _request(line: bytes) -> Request:
    return msgspec.json.decode(line, type=Request)


def _exit_code(pid: int) -> int:
    """Of a process of ours, once it has ended; or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end_with(code: int) -> None:
    """End as a fork did, for the dispatcher to tell why."""
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
