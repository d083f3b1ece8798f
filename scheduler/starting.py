"""Starting the jobs that were placed: room for what they write, their reservation, their processes."""

import logging
import time

from jobs.errors import in_words
from jobs.room import NoRoomError
from jobs.run_dir import Launch, RunDir, make_private_folder
from jobs.units import format_bytes
from scheduler.device import Device, chosen_precision
from scheduler.disk import needed_bytes, require
from scheduler.errors import is_full
from scheduler.estimate import Basis
from scheduler.home import Home
from scheduler.records import Job, Prediction
from scheduler.rest import Rest
from scheduler.states import Outcome
from scheduler.store import Store
from scheduler.supervisor import Supervisor

ASIDE_S = 60.0  # for this long a job whose run directory cannot be written is left alone

log = logging.getLogger("gpuq")


class Starter:
    """Starts one job after the other. What is in the way of one keeps no other waiting, and may be over later."""

    def __init__(
        self, home: Home, store: Store, device: Device, supervisor: Supervisor, rest: Rest, grace_s: float
    ) -> None:
        """`rest` begins when no process can be started."""
        self._home = home
        self._store = store
        self._device = device
        self._supervisor = supervisor
        self._rest = rest
        self._grace_s = grace_s
        self._aside_until: dict[int, float] = {}  # on the monotonic clock, by job

    def leaves_alone(self, job_id: int) -> bool:
        """Whether a job's run directory could not be written a moment ago."""
        return time.monotonic() < self._aside_until.get(job_id, 0.0)

    def start(
        self, job: Job, reservation_bytes: int, prediction: Prediction, parameters: int | None, *, gives_back: bool
    ) -> None:
        """Commit the reservation, then start the attempt's processes; not without room for what it will write.

        Raises what comes of a full disk.
        """
        files = self._home.run_dir(job.id)
        if not self._prepares(job, files, parameters or job.parameters or 0):
            return
        number = self._store.place(job.id, reservation_bytes, prediction)
        if number is None:
            return  # cancelled or paused meanwhile
        launch = Launch(
            number=number,
            device=self._device.torch_device,
            precision=chosen_precision(job.spec.train.precision, self._device),
            reservation_bytes=reservation_bytes,
            context_bytes=self._device.constants.context_bytes,
            resident_limit_bytes=reservation_bytes if self._device.kind == "cpu" else None,
            grace_s=self._grace_s,
            cache_dir=str(self._home.cache),
            environment=self._device.environment(job.spec.resources.threads),
            probe=prediction.basis == Basis.PROBED,
            first_counted=job.forgiven_attempts + 1,
            hang_s=job.spec.limits.hang_s,
            gives_back=gives_back,
        )
        self._begin(job, files, launch)

    def _prepares(self, job: Job, files: RunDir, parameters: int) -> bool:
        """Whether its run directory is there, with room for what a network of so many parameters leaves in it."""
        try:
            make_private_folder(files.path)
            require(files.path, needed_bytes(files, job.spec, parameters))
            files.create(job.spec)
        except NoRoomError as full:
            self._store.set_reason(job.id, f"waiting for room: {full}")
            return False
        except OSError as error:
            if is_full(error):
                raise
            self._aside_until[job.id] = time.monotonic() + ASIDE_S
            log.warning("job %d cannot be started: %s", job.id, error)
            self._store.set_reason(job.id, f"cannot be started: {in_words(error)}; tried again in a minute")
            return False
        return True

    def _begin(self, job: Job, files: RunDir, launch: Launch) -> None:
        """Start the processes. That none can be started, as where there are too many, is no loss of the job's."""
        try:
            self._supervisor.start(files, launch)
        except OSError as error:
            if is_full(error):
                raise
            [attempt] = [one for one in self._store.live_attempts() if one.job_id == job.id]
            why = f"no process can be started: {in_words(error)}"
            self._store.end_attempt(attempt, Outcome.STOPPED, why, requeue=True, exit_code=None, peak_bytes=None)
            log.warning("job %d attempt %d: %s", job.id, launch.number, why)
            self._rest.begin(why)
        else:
            log.info(
                "job %d attempt %d: started with %s", job.id, launch.number, format_bytes(launch.reservation_bytes)
            )
