"""What people wish of jobs and of the whole queue, in the store: to cancel, retry, pause and resume.

A wish is a column beside the state. Of a live job the dispatcher fulfils it, and the end of the attempt takes it into
account, whichever comes first; a job that is paused keeps its wish while it is queued.
"""

from scheduler.records import Job, QueuePause
from scheduler.states import Outcome, State, Wish
from scheduler.transitions import Transitions

PAUSED = "paused"  # the reason of a queued job that is held, and how people see its state


class Wishes(Transitions):
    """A person's part of the store."""

    def cancel(self, job_id: int) -> Job:
        """Finish a queued job as cancelled, wish it of a live one, leave a finished one; the job as it is then."""
        with self._transaction():
            job = self.job(job_id)
            if job.state is State.QUEUED:
                self._finish(job, Outcome.CANCELLED, "cancelled before it started")
            elif job.is_live:
                self._db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (Wish.CANCEL, job_id))
                self._event(job_id, "cancel wished")
            return self.job(job_id)

    def retry(self, job_id: int) -> bool:
        """Queue a finished job again, to go on from its checkpoint; False if it is not finished or succeeded.

        What went wrong before no longer counts, and its memory is estimated anew: a user's file may have changed.
        """
        with self._transaction():
            job = self.job(job_id)
            if job.state is not State.FINISHED or job.outcome is Outcome.SUCCEEDED:
                return False
            return self._move(
                job_id,
                State.FINISHED,
                State.QUEUED,
                "retried",
                outcome=None,
                reason=None,
                finished_at=None,
                estimate=None,
                forgiven_attempts=self._count_attempts(job_id),
            )

    def pause(self, job_id: int) -> Job:
        """Hold a queued job, wish it of a live one, leave one that has ended or has a wish; the job as it was before.

        A live job checkpoints, and is held when its attempt has ended.
        """
        with self._transaction():
            job = self.job(job_id)
            if job.state is not State.FINISHED and job.wish is None:
                reason = PAUSED if job.state is State.QUEUED else job.reason
                self._db.execute("UPDATE jobs SET wish = ?, reason = ? WHERE id = ?", (Wish.PAUSE, reason, job_id))
                self._event(job_id, "pause wished" if job.is_live else "paused")
            return job

    def resume(self, job_id: int) -> Job:
        """Take back a pause; the job as it was before."""
        with self._transaction():
            job = self.job(job_id)
            if job.is_paused:
                self._db.execute("UPDATE jobs SET wish = NULL, reason = NULL WHERE id = ?", (job_id,))
                self._event(job_id, "resumed")
            return job

    def pause_queue(self, reason: str | None = None, *, running_go_on: bool = False) -> None:
        """Start no job from now on, whenever it is submitted; unless they are to go on, have live ones checkpoint.

        `reason` is why, where it was not a person. Of two pauses the one that stops more is what counts.
        """
        with self._transaction():
            if not (running_go_on and self.queue_pause()):
                self._db.execute(
                    "INSERT OR REPLACE INTO queue_pause (id, paused_at, reason, running_go_on) VALUES (1, ?, ?, ?)",
                    (self._now(), reason, running_go_on),
                )

    def resume_queue(self) -> bool:
        """Take back the pause of the whole queue; False if it was not paused. Jobs paused by themselves stay so."""
        return self._db.execute("DELETE FROM queue_pause").rowcount > 0

    def queue_pause(self) -> QueuePause | None:
        """The pause of the whole queue; None while it moves."""
        row = self._db.execute("SELECT paused_at, reason, running_go_on FROM queue_pause").fetchone()
        return None if row is None else QueuePause(paused_at=row[0], reason=row[1], running_go_on=bool(row[2]))
