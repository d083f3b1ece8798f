"""Tracing jobs in a child process (`jobs.estimator`): fed specs, read without blocking, ended when it takes too much.

The dispatcher never imports torch, and a network that crashes, hangs or grows while it is traced takes nothing with it.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from jobs.spec import JobSpec
from jobs.trace_messages import Message, OutOfMemory, Reply, Request, Tracing
from jobs.units import format_bytes
from scheduler.device import Device, chosen_precision
from scheduler.tracing_process import TracingProcess

ESTIMATOR = (sys.executable, "-P", "-m", "jobs.estimator")
_SENT_AHEAD = 8  # requests that the child may have unanswered: more could fill its pipe, and writing would block


@dataclass(frozen=True)
class Limits:
    """What estimating one job may take."""

    # Decoding or downloading a data set.
    prepare_s: float = 900.0
    # A trace takes a second or less; a network that must be built for real takes what drawing its weights does, too.
    trace_cpu_s: int = 60
    # By the clock: when jobs train on all cores, a trace gets a fraction of one.
    trace_s: float = 600.0
    # A network that reads a tensor while it is built is built for real: this is one of two billion parameters.
    memory_bytes: int = 8 << 30


@dataclass(frozen=True)
class Failed:
    """A job that could not be traced, and why, in one line."""

    reason: str
    untraceable: bool = False  # it may train all the same
    no_room: bool = False  # for its data, on the disk


class Tracer:
    """Traces one job after another in one child process, started when there is something to trace."""

    def __init__(
        self,
        device: Device,
        cache_dir: Path,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
        estimator: Sequence[str] = ESTIMATOR,
        limits: Limits | None = None,
    ) -> None:
        """`estimator` is the child's command: requests in, messages out, a JSON line each."""
        self._device = device
        self._cache_dir = cache_dir
        self._log = log
        self._clock = clock
        self._estimator = estimator
        self._limits = limits or Limits()
        self._pending: dict[int, Request] = {}  # in the order they are traced
        self._process: TracingProcess | None = None
        self._sent = 0  # how many of the pending requests the process has been sent
        self._answered = False  # whether it has answered any
        self._tracing: Tracing | None = None  # the first pending request, once its data are prepared
        self._since = 0.0  # when that, or its preparation, began
        self._excused: set[int] = set()  # requests whose process somebody has killed once

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self._pending)

    def ask(
        self, key: int, spec: JobSpec, *, prepare: bool, most_bytes: int | None = None, search: bool = False
    ) -> None:
        """Have a job traced; with `prepare`, its data set decoded into the cache first.

        If the estimate comes to more than `most_bytes`, or with `search`, the largest batch size within these, too.
        """
        self._pending[key] = Request(
            key=key,
            spec=spec,
            device=self._device.torch_device,
            constants=self._device.constants,
            precision=chosen_precision(spec.train.precision, self._device),
            cache_dir=str(self._cache_dir),
            prepare=prepare,
            most_bytes=most_bytes,
            search=search,
            memory_limit_bytes=self._limits.memory_bytes,
            cpu_limit_s=self._limits.trace_cpu_s,
        )
        self._send(self._running())

    def poll(self, timeout_s: float = 0.0) -> dict[int, Reply | Failed]:
        """What has become known since the last call, by key; waits at most `timeout_s` for the first of it."""
        if self._process is None and not self._pending:
            return {}
        self._process = self._running()
        known: dict[int, Reply | Failed] = {}
        ended = self._process.has_ended()  # before reading: what it wrote before it ended is then all there
        for line in self._process.read(0.0 if ended else timeout_s):
            try:
                message = msgspec.json.decode(line, type=Message)
            except msgspec.DecodeError:
                return known | self._replace_process("tracing it wrote something else where the reply belongs")
            if isinstance(message, OutOfMemory):
                return known | self._replace_process(self._too_large())
            known |= self._take(message)
        self._send(self._process)
        excused = ended and self._process.was_killed() and self._excuse()
        trouble = self._death(self._process) if ended else self._excess(self._process)
        if trouble is not None:
            known |= self._replace_process(trouble, excused=excused)
        if not self._pending:
            self.close()
        return known

    def close(self) -> None:
        """End the child process, and whatever it has started."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _running(self) -> TracingProcess:
        """The child; started if there is none, as after the system had no room for another process."""
        if self._process is None:
            self._sent = 0
            self._answered = False
            self._begin(None)
            self._process = TracingProcess(self._estimator, self._log)
        return self._process

    def _begin(self, tracing: Tracing | None) -> None:
        """The first pending request is being traced from now on, or, if None, prepared."""
        self._tracing = tracing
        self._since = self._clock()

    def _send(self, process: TracingProcess) -> None:
        """Keep the child supplied with requests."""
        for request in list(islice(self._pending.values(), self._sent, _SENT_AHEAD)):
            process.write(msgspec.json.encode(request))
            self._sent += 1

    def _take(self, message: Tracing | Reply) -> dict[int, Reply | Failed]:
        """Take in what the child says; what is known by it. A request may have been answered before, by a fork."""
        if message.key not in self._pending:
            return {}
        if isinstance(message, Tracing):
            self._begin(message)
            return {}
        del self._pending[message.key]
        self._sent -= 1
        self._answered = True
        self._begin(None)
        if message.error is None:
            return {message.key: message}
        return {message.key: Failed(message.error, message.untraceable, message.no_room)}

    def _excess(self, process: TracingProcess) -> str | None:
        """What the first pending request takes too much of."""
        limits, began = self._limits, self._tracing
        name, limit_s = ("preparing its data", limits.prepare_s) if began is None else ("tracing it", limits.trace_s)
        if self._pending and self._clock() - self._since > limit_s:
            return f"{name} took more than {limit_s:g} s"
        if began is not None and process.grown_bytes(began.resident_bytes) > limits.memory_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> str:
        return f"tracing it took more than {format_bytes(self._limits.memory_bytes)} of memory"

    def _death(self, process: TracingProcess) -> str:
        code = process.kill()
        if code == -signal.SIGXCPU:
            return f"tracing it took more than {self._limits.trace_cpu_s} s of the CPU"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        words = process.last_words()
        return f"tracing it ended its process {how}" + (f": {words}" if words else "")

    def _excuse(self) -> bool:
        """Once for each request: its process was killed from outside, as the kernel does when memory runs out."""
        key = next(iter(self._pending), None)
        if key is None or key in self._excused:
            return False
        self._excused.add(key)
        return True

    def _replace_process(self, trouble: str, *, excused: bool = False) -> dict[int, Reply | Failed]:
        """What is pending gets a new child with the next call. The first request fails, unless it is `excused`, or the
        old child had answered others: what their networks left running may be to blame, so it gets one of its own.
        """
        failed: dict[int, Reply | Failed] = {}
        self.close()
        if self._pending and not (self._answered or excused):
            key = next(iter(self._pending))
            failed[key] = Failed(f"{self._pending.pop(key).spec.model.name}: {trouble}")
        return failed
