"""The child process that traces jobs (`jobs.estimator`): fed specs, read without blocking, ended when it hangs.

The dispatcher never imports torch, and a network that crashes while it is traced takes nothing with it.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from jobs.run_dir import open_private
from jobs.spec import JobSpec
from jobs.trace_messages import Reply, Request
from scheduler.device import Device, chosen_precision
from scheduler.log import last_lines

# Decoding or downloading a data set counts, too.
REQUEST_TIMEOUT_S = 900.0
ESTIMATOR = (sys.executable, "-P", "-m", "jobs.estimator")
_SENT_AHEAD = 8  # requests that the child may have unanswered: more could fill its pipe, and writing would block
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Failed:
    """A job that could not be traced, and why, in one line."""

    reason: str


class Tracer:
    """Traces one job after another in one child process, started when there is something to trace."""

    def __init__(
        self,
        device: Device,
        cache_dir: Path,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
        estimator: Sequence[str] = ESTIMATOR,
    ) -> None:
        """`estimator` is the child's command: requests in, replies out, a JSON line each."""
        self._device = device
        self._cache_dir = cache_dir
        self._log = log
        self._clock = clock
        self._estimator = estimator
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: dict[int, Request] = {}  # in the order they are traced
        self._sent = 0  # how many of these the child has been sent
        self._buffer = b""
        self._since = 0.0  # when the first pending request became the first

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self._pending)

    def ask(self, key: int, spec: JobSpec, *, prepare: bool) -> None:
        """Have a job traced; with `prepare`, its data set decoded into the cache first."""
        if not self._pending:
            self._since = self._clock()
        self._pending[key] = Request(
            key=key,
            spec=spec,
            device=self._device.torch_device,
            context_bytes=self._device.context_bytes,
            precision=chosen_precision(spec.train.precision, self._device),
            cache_dir=str(self._cache_dir),
            prepare=prepare,
        )
        if self._process is None:
            self._start()
        self._send()

    def poll(self, timeout_s: float = 0.0) -> dict[int, Reply | Failed]:
        """What has become known since the last call, by key; waits at most `timeout_s` for the first of it."""
        if self._process is None:
            return {}
        known: dict[int, Reply | Failed] = {}
        ended = self._read(timeout_s)
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                reply = msgspec.json.decode(line, type=Reply)
            except msgspec.DecodeError:
                return known | self._fail_first("tracing it wrote something else where the reply belongs")
            if self._pending.pop(reply.key, None) is not None:
                known[reply.key] = reply if reply.error is None else Failed(reply.error)
                self._sent -= 1
                self._since = self._clock()
        self._send()
        if ended:
            known |= self._fail_first(self._death())
        elif self._pending and self._clock() - self._since > REQUEST_TIMEOUT_S:
            known |= self._fail_first(f"tracing it took more than {REQUEST_TIMEOUT_S:g} s")
        if not self._pending:
            self.close()
        return known

    def close(self) -> None:
        """End the child process, and whatever it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None
            self._buffer = b""
            self._sent = 0

    def _start(self) -> None:
        with open_private(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._estimator,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._since = self._clock()

    def _send(self) -> None:
        """Keep the child supplied with requests."""
        assert self._process is not None
        assert self._process.stdin is not None
        for request in list(islice(self._pending.values(), self._sent, _SENT_AHEAD)):
            with contextlib.suppress(BrokenPipeError):  # it died: `poll` finds out, and another child is sent them anew
                self._process.stdin.write(msgspec.json.encode(request) + b"\n")
                self._process.stdin.flush()
            self._sent += 1

    def _read(self, timeout_s: float) -> bool:
        """Take in what the child has written; whether it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout
        while select.select([pipe], [], [], timeout_s)[0]:
            text = os.read(pipe.fileno(), _READ_BYTES)
            if not text:
                return True
            self._buffer += text
            timeout_s = 0.0
        return False

    def _fail_first(self, reason: str) -> dict[int, Reply | Failed]:
        """The request that was being traced fails; the others get a new child."""
        self.close()
        if not self._pending:
            return {}
        key = next(iter(self._pending))
        del self._pending[key]
        if self._pending:
            self._start()
            self._send()
        return {key: Failed(reason)}

    def _death(self) -> str:
        process = self._process
        assert process is not None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not reaped yet: its group's id stays its own
        self.close()
        code = process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        lines = [line for line in last_lines(self._log, 1) if line.strip()]
        return f"tracing it ended its process {how}" + (f": {lines[0]}" if lines else "")
