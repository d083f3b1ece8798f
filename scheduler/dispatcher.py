"""The one process per device that starts and watches attempts. One tick: reap, follow, measure, estimate, place."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.run_dir import (
    AttemptFiles,
    ExitRecord,
    Failure,
    Launch,
    Peak,
    Progress,
    Result,
    RunDir,
    read_metrics,
    read_whole,
)
from scheduler import estimate as estimates
from scheduler.breaker import Breaker
from scheduler.calibration import Calibrator
from scheduler.device import Device, Snapshot, unreadable
from scheduler.device_view import DeviceView, reserved_bytes, write_view
from scheduler.errors import DeviceUnreadableError, is_full
from scheduler.estimate import Basis, Estimate, History
from scheduler.estimating import Estimating
from scheduler.eta import remaining_s
from scheduler.home import Home
from scheduler.placement import Candidate, Capacity, Placement, Resident, plan
from scheduler.records import Attempt, Job, Prediction
from scheduler.rest import Rest
from scheduler.starting import Starter
from scheduler.states import Outcome, State
from scheduler.store import Store
from scheduler.supervisor import Supervisor
from scheduler.tracing import Tracer
from scheduler.verdict import has_probed, judge

TICK_S = 0.25
GRACE_S = 30.0  # a worker may need this long to finish a step and write a checkpoint
ENDING_S = 10.0  # and its parent process this long to see to its end

log = logging.getLogger("gpuq")


@dataclass(frozen=True)
class Live:
    """A live attempt with its job and its files."""

    job: Job
    attempt: Attempt
    files: RunDir

    @property
    def attempt_files(self) -> AttemptFiles:
        return self.files.attempt(self.attempt.number)


class Dispatcher:
    """Moves the queue of a state directory, on one device."""

    def __init__(
        self,
        home: Home,
        store: Store,
        device: Device,
        *,
        supervisor: Supervisor | None = None,
        tracer: Tracer | None = None,
        calibrator: Calibrator | None = None,
        grace_s: float = GRACE_S,
        max_failures: int | None = None,
    ) -> None:
        """`max_failures` jobs that have failed pause the queue: scheduler.breaker."""
        self._home = home
        self._store = store
        self._device = device
        self._supervisor = supervisor or Supervisor()
        self._tracer = tracer or Tracer(device, home.cache, home.estimator_log)
        self._calibrator = calibrator or Calibrator(device, home)
        self._grace_s = grace_s
        self._breaker = Breaker(store, max_failures)
        self._metrics_seen: dict[tuple[int, int], int] = {}  # (job, attempt) → size of metrics.jsonl
        self._signatures: dict[int, str] = {}
        self._estimating = Estimating(store, self._tracer, self._signature)
        self._history: History | None = None  # None: to be read, again if an attempt has ended
        self._rest = Rest()
        self._starter = Starter(home, store, device, self._supervisor, self._rest, grace_s)
        self.stopping = False

    def tick(self) -> None:
        """Bring the store and the processes up to date with each other, then start what fits.

        Raises what comes of a full disk (`errors.is_full`), once all attempts have been followed as far as that goes.
        """
        full = None
        for live in self._live():
            try:
                self._follow(live)
            except Exception as error:  # one attempt's trouble must not keep the others from being followed
                full = error if is_full(error) else full
                if full is not error:
                    log.exception("job %d cannot be followed", live.job.id)
        if full is not None:
            raise full
        if not self.stopping:
            snapshot = self._measure()
            if snapshot is not None and self._calibrator.is_measuring(snapshot, self._store.live_attempts()):
                self._hold_all("waiting until the constants of the device are measured")
                return
            history = self._known(snapshot)
            most_bytes = None if snapshot is None else estimates.most_bytes(snapshot.capacity_bytes, history)
            self._estimating.advance(self._store.startable, history, most_bytes)
            if snapshot is not None and not self._rests():
                self._place(snapshot, history)

    def shut_down(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Have all attempts checkpoint and end, their jobs queued again; within the grace time.

        What finds no room until then, in the store or a run directory, is left to the next dispatcher.
        """
        self.stopping = True
        self.leave()
        end = clock() + self._grace_s + ENDING_S
        while self._store.live_attempts() and clock() < end:
            try:
                self.tick()
            except Exception as error:
                if not is_full(error):
                    raise
            sleep(TICK_S)

    def leave(self) -> None:
        """Let go of what is not an attempt; attempts go on, for the next dispatcher to find."""
        self._tracer.close()
        self._calibrator.close()

    # -- attempts that live -------------------------------------------------------------------------------------

    def _live(self) -> list[Live]:
        return [
            Live(self._store.job(attempt.job_id), attempt, self._home.run_dir(attempt.job_id))
            for attempt in self._store.live_attempts()
        ]

    def _follow(self, live: Live) -> None:
        """Take over what an attempt has done since the last tick, and what has become of it."""
        files = live.attempt_files
        ended = self._supervisor.poll(files)  # before the rest: what it wrote before it ended is then all there
        if ended is None and (self.stopping or live.job.wish is not None or self._pauses_live()):
            self._supervisor.stop(files)
        self._note_progress(live)
        self._ingest_metrics(live)
        if ended is not None:
            self._end(live, ended)

    def _pauses_live(self) -> bool:
        pause = self._store.queue_pause()
        return pause is not None and not pause.running_go_on

    def _note_progress(self, live: Live) -> None:
        """Who the worker is, that it has begun to train, and what it has given back of its reservation."""
        job, attempt = live.job, live.attempt
        if attempt.pid is None and (pid := self._supervisor.worker_pid(live.attempt_files)) is not None:
            self._store.set_pid(job.id, attempt.number, pid)
        progress = read_whole(live.attempt_files.progress, Progress)
        if progress is None:
            return
        if job.state is State.STARTING:
            self._store.mark_running(job.id, attempt.number, progress)
        if (left := progress.left_of(attempt.reservation_bytes)) < attempt.reservation_bytes:
            self._store.lower_reservation(job.id, attempt.number, left)

    def _ingest_metrics(self, live: Live) -> None:
        """Lines are read anew when the file has grown; an attempt's first reading takes all there are."""
        key = (live.job.id, live.attempt.number)
        try:
            size = live.files.metrics.stat().st_size
        except FileNotFoundError:
            return
        job = self._store.job(live.job.id)  # as it is since the attempt began to train
        if size == self._metrics_seen.get(key) or job.state is not State.RUNNING:
            return
        if lines := read_metrics(live.files.metrics):
            known = live.job.step if key in self._metrics_seen else 0
            eta = None if job.steps is None else remaining_s(lines, job.steps)
            new = [line for line in lines if line.step > known] or lines[-1:]
            self._store.record_metrics(live.job.id, live.attempt.number, new, eta)
        self._metrics_seen[key] = size

    def _end(self, live: Live, ended: ExitRecord) -> None:
        files = live.attempt_files
        job = self._store.job(live.job.id)
        *earlier, attempt = self._store.counted_attempts(job)
        live = Live(job, attempt, live.files)  # as it is after the last metrics
        failure, result = read_whole(files.failure, Failure), read_whole(live.files.result, Result)
        tries = [one for one in earlier if not _had_kept_too_little(live.files, one)]
        verdict = judge(ended, failure, job.wish, attempt, tries, has_result=result is not None)
        log.info("job %d attempt %d: %s%s", attempt.job_id, attempt.number, verdict.outcome, _because(verdict.reason))
        self._signatures.pop(job.id, None)  # a user's file may change before the next attempt
        self._history = None
        if failure is not None and failure.of_device:
            self._rest.begin("the device has failed a job")
        elif attempt.start_step is not None and _last_step(live) > attempt.start_step:
            self._rest.recovered()
        self._store.end_attempt(
            attempt,
            verdict.outcome,
            verdict.reason,
            requeue=verdict.requeue,
            exit_code=ended.exit_code if ended.signal is None else -ended.signal,
            peak_bytes=self._needed_bytes(live, verdict.outcome, ended, failure),
            shows_peak=has_probed(ended, attempt) or self._shows_its_peak(live, verdict.outcome),
            test_accuracy=None if result is None else result.test_accuracy,
        )

    def _shows_its_peak(self, live: Live, outcome: Outcome) -> bool:
        progress = read_whole(live.attempt_files.progress, Progress)
        steps_to_peak = None if progress is None else progress.steps_to_peak
        start_step = live.attempt.start_step
        return estimates.shows_its_peak(live.job.spec, outcome, start_step, _last_step(live), steps_to_peak)

    def _needed_bytes(self, live: Live, outcome: Outcome, ended: ExitRecord, failure: Failure | None) -> int | None:
        """The most memory an attempt held; if it ran out of memory, what it needed at least."""
        peak = read_whole(live.attempt_files.peak, Peak)
        reported = 0 if peak is None else peak.peak_bytes
        resident = ended.resident_peak_bytes if self._device.kind == "cpu" else 0
        held = max(reported, resident, live.attempt.peak_bytes or 0)
        if outcome is not Outcome.OUT_OF_MEMORY:
            return held or None
        requested = None if failure is None else failure.requested_bytes
        return estimates.needed_at_least(live.attempt.reservation_bytes, held, requested)

    # -- jobs that wait -----------------------------------------------------------------------------------------

    def _measure(self) -> Snapshot | None:
        """The device now, left for others to see; if it cannot be read, None, and queued jobs wait for that reason."""
        live = self._store.live_attempts()
        try:
            snapshot = self._device.snapshot(self._reported(live))
        except DeviceUnreadableError as error:
            self._show(unreadable(self._device), live, str(error))
            self._hold_all(str(error))
            return None
        self._show(snapshot, live)
        return snapshot

    def _rests(self) -> bool:
        """Whether what has failed a job is given time to recover; queued jobs wait."""
        if (reason := self._rest.reason()) is None:
            return False
        self._hold_all(reason)
        return True

    def _hold_all(self, reason: str) -> None:
        queued = self._store.startable()
        self._say_why(queued, dict.fromkeys((job.id for job in queued), reason))

    def _say_why(self, queued: Iterable[Job], reasons: Mapping[int, str]) -> None:
        """Why queued jobs wait, by id. In one transaction: one for each would take a minute where thousands wait."""
        said = {job.id: job.reason for job in queued}
        if news := {job_id: reason for job_id, reason in reasons.items() if reason != said[job_id]}:
            self._store.set_reasons(news)

    def _known(self, snapshot: Snapshot | None) -> History:
        """What attempts on this device have taught; nothing as long as it has not been read."""
        if self._history is None and snapshot is not None:
            self._history = self._store.history(snapshot.kind, snapshot.name)
        return self._history or History()

    def _signature(self, job: Job) -> str:
        if job.id not in self._signatures:
            self._signatures[job.id] = estimates.signature(job.spec, self._device.kind)
        return self._signatures[job.id]

    def _place(self, snapshot: Snapshot, history: History) -> None:
        resident = [self._resident(attempt, snapshot) for attempt in self._store.live_attempts()]
        queued = [job for job in self._store.startable() if not self._starter.leaves_alone(job.id)]
        known = self._corrected(queued, history, snapshot.capacity_bytes)
        decision = plan([_candidate(job, known.get(job.id)) for job in queued], resident, _capacity(snapshot))
        for job_id, reason in decision.impossible.items():
            self._store.finish_queued(job_id, Outcome.FAILED, reason)
        self._breaker.check()  # once it has paused the queue, the store places nothing
        without_room = self._estimating.without_room
        self._say_why(queued, {job_id: without_room.get(job_id, why) for job_id, why in decision.waiting.items()})
        for placement in decision.placements:
            if self._rest.reason() is None:
                self._start(placement, known[placement.job_id], snapshot)

    def _show(self, snapshot: Snapshot, live: list[Attempt], error: str | None = None) -> None:
        view = DeviceView(
            snapshot=snapshot,
            reserved_bytes=reserved_bytes(live),
            error=error,
            warning=self._calibrator.warning,
        )
        write_view(self._home.device_view, view)

    def _corrected(self, queued: Sequence[Job], history: History, largest_bytes: int) -> dict[int, Estimate]:
        """The estimates that there are, by job, corrected by what has been learned since they were made."""
        known, changed = {}, {}
        for job in queued:
            estimate = estimates.best(job.spec, self._signature(job), history, job.estimate, largest_bytes)
            if job.estimate is not None and estimate is not None:
                known[job.id] = estimates.beyond(estimate, self._exceeded_bytes(job), largest_bytes)
                if estimate != job.estimate:
                    changed[job.id] = estimate
        if changed:
            self._store.set_estimates(changed)
        return known

    def _exceeded_bytes(self, job: Job) -> int | None:
        """The largest reservation that a job has run out of memory with."""
        if job.reservation_bytes is None:  # never placed
            return None
        ran_out = (one for one in self._store.counted_attempts(job) if one.outcome is Outcome.OUT_OF_MEMORY)
        return max((one.reservation_bytes for one in ran_out), default=None)

    def _reported(self, live: list[Attempt]) -> dict[int, int]:
        """Our workers by pid, with the peak each has reported so far."""
        return {attempt.pid: attempt.peak_bytes or 0 for attempt in live if attempt.pid is not None}

    def _resident(self, attempt: Attempt, snapshot: Snapshot) -> Resident:
        used = snapshot.used_by_worker.get(attempt.pid or 0, 0)
        threads = self._store.job(attempt.job_id).spec.resources.threads
        return Resident(attempt.job_id, max(attempt.reservation_bytes, used), threads)

    def _start(self, placement: Placement, estimate: Estimate, snapshot: Snapshot) -> None:
        job = self._store.job(placement.job_id)
        prediction = Prediction(
            signature=self._signature(job),
            device_kind=snapshot.kind,
            device_name=snapshot.name,
            predicted_bytes=estimate.bytes,
            basis=estimate.basis,
        )
        gives_back = self._exceeded_bytes(job) is None  # else giving back may have been why it ran out
        self._starter.start(job, placement.reservation_bytes, prediction, estimate.parameters, gives_back=gives_back)


def _had_kept_too_little(files: RunDir, attempt: Attempt) -> bool:
    """Whether it ran out of memory after it had given some back: its whole reservation has not been tried yet."""
    launch = read_whole(files.attempt(attempt.number).launch, Launch)
    gave_back = launch is not None and attempt.reservation_bytes < launch.reservation_bytes
    return gave_back and attempt.outcome is Outcome.OUT_OF_MEMORY


def _last_step(live: Live) -> int:
    """Where a job was evaluated last; an attempt that has begun left no lines beyond its start but its own."""
    lines = read_metrics(live.files.metrics)
    return lines[-1].step if lines else 0


def _because(reason: str | None) -> str:
    return "" if reason is None else f": {reason}"


def _candidate(job: Job, estimate: Estimate | None) -> Candidate:
    threads = job.spec.resources.threads
    if estimate is None:
        return Candidate(job.id, job.priority, None, threads)
    if estimate.basis is Basis.PROBED:
        return Candidate(job.id, job.priority, None, threads, alone=True)
    return Candidate(job.id, job.priority, estimate.reservation_bytes, threads, estimate.largest_batch_size)


def _capacity(snapshot: Snapshot) -> Capacity:
    return Capacity(
        budget_bytes=snapshot.budget_bytes,
        used_by_others_bytes=snapshot.used_by_others_bytes,
        largest_bytes=snapshot.capacity_bytes,
        threads=snapshot.threads,
    )
