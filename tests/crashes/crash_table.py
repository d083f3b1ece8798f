"""Where processes are killed, by the tests that do it: all places of `writing_places`, or a reason why not."""

from collections.abc import Iterable

import pytest
from crash_point import AFTER, BEFORE, WITHIN, CrashPoint, Place


def place(text: str) -> Place:
    """Such as "scheduler.supervisor:Supervisor.start > Popen"."""
    caller, callee = text.split(" > ")
    return Place(caller, callee)


def points(texts: Iterable[str]) -> list[CrashPoint]:
    """Before, after and, of transactions, within each place."""
    return [
        CrashPoint(one, when)
        for one in map(place, texts)
        for when in (BEFORE, WITHIN, AFTER)
        if when != WITHIN or one.callee == "_transaction"
    ]


def some_now_all_when_slow(texts: Iterable[str], every: int = 1) -> list[object]:
    """As parameters: of every so many places one point, in turn before, after and within; the others marked as slow."""
    parameters: list[object] = []
    for turn, text in enumerate(texts):
        here = points([text])
        now = here[turn // every % len(here)] if turn % every == 0 else None
        for point in here:
            parameters.append(pytest.param(point, id=str(point), marks=[] if point is now else pytest.mark.slow))
    return parameters


# `gpuq run`, from taking the post to giving it up
DISPATCHER = (
    "scheduler.store:Store.register_dispatcher > execute",
    "scheduler.log:LossyFile.__init__ > open_private",
    "scheduler.dispatcher:Dispatcher._show > write_view",
    "scheduler.device_view:write_view > write_atomically",
    "scheduler.store:Store.set_estimates > _transaction",
    "scheduler.store:Store.finish_queued > _transaction",
    "scheduler.store:Store.place > _transaction",
    "scheduler.starting:Starter._prepares > make_private_folder",
    "jobs.run_dir:RunDir.create > make_private_folder",
    "jobs.run_dir:RunDir.create > write_atomically",
    "scheduler.supervisor:Supervisor.start > write_record",
    "jobs.notice:Notice.reserve > touch",
    "scheduler.supervisor:Supervisor.start > open_private",
    "scheduler.supervisor:Supervisor.start > Popen",
    "scheduler.store:Store.set_pid > execute",
    "scheduler.store:Store.mark_running > _transaction",
    "scheduler.store:Store.lower_reservation > _transaction",
    "scheduler.store:Store.record_metrics > _transaction",
    "scheduler.store:Store.end_attempt > _transaction",
    "scheduler.store:Store.unregister_dispatcher > _transaction",
)
DISPATCHER_OF_A_CROWD = ("scheduler.store:Store.set_reasons > _transaction",)
DISPATCHER_AFTER_A_CRASH = (
    "scheduler.supervisor:Supervisor._give_up > make_private_folder",
    "scheduler.supervisor:Supervisor._give_up > open_private",
    "scheduler.supervisor:Supervisor._give_up > write_record",
)
PARENT = (
    "scheduler.parent:main > open_private",
    "scheduler.parent:Watch.__init__ > Popen",
    "scheduler.parent:Watch._introduce > write_record",
    "scheduler.parent:Watch._record > write_record",
)

# Commands, from the first that makes the state directory
MAKING = (
    "scheduler.home:Home.create > make_private_folder",
    "jobs.run_dir:make_private_folder > mkdir",
    "scheduler.store:Store.__init__ > make_store",
    "scheduler.schema:make_store > folder_beside",
    "scheduler.schema:make_store > touch",
    "scheduler.schema:create_tables > execute",
    "scheduler.schema:make_store > execute",
    "scheduler.schema:make_store > link",
)
SUBMITTING = (
    "scheduler.store:Store.submit > _transaction",
    "scheduler.copies:leave_copies > make_private_folder",
    "scheduler.copies:_leave > write_atomically",
)
DISPATCHING = (
    "scheduler.background:start_dispatcher > open_private",
    "scheduler.background:start_dispatcher > Popen",
)
WISHING = {  # over the jobs that the test prepares
    "scheduler.wishes:Wishes.cancel > _transaction": ("cancel", "1"),
    "scheduler.wishes:Wishes.retry > _transaction": ("retry", "2", "--no-start"),
    "scheduler.wishes:Wishes.pause > _transaction": ("pause", "1"),
    "scheduler.wishes:Wishes.resume > _transaction": ("resume", "3", "--no-start"),
    "scheduler.wishes:Wishes.pause_queue > _transaction": ("pause", "--all"),
    "scheduler.wishes:Wishes.resume_queue > execute": ("resume", "--all", "--no-start"),
}
CLEANING = (
    "scheduler.store:Store.remove > _transaction",
    "scheduler.cleaning:_set_aside > make_private_folder",
    "scheduler.cleaning:_set_aside > rename",
    "scheduler.cleaning:_delete > rmtree",
    "scheduler.cleaning:_delete > unlink",
)
REBUILDING = (
    "scheduler.rebuild:rebuild > folder_beside",
    "scheduler.rebuild:_copy > copy2",
    "scheduler.rebuild:rebuild > make_store",
    "scheduler.store:Store.restore > _transaction",
    "scheduler.rebuild:_keep > rename",
    "scheduler.rebuild:_put_in_place > unlink",
    "scheduler.rebuild:_put_in_place > replace",
)
MIGRATING = (
    "scheduler.store:Store._prepare > _transaction",
    "scheduler.migrations:_copy > touch",
    "scheduler.migrations:_copy > backup",
    "scheduler.migrations:_copy > replace",
    "scheduler.migrations:migrate > execute",
    "scheduler.migrations:_drop_all > execute",
    "scheduler.migrations:_fill > execute",
)

# One file at a time, without torch
WRITING = (
    "jobs.run_dir:write_record > make_private_folder",
    "jobs.run_dir:write_record > write_atomically",
    "jobs.run_dir:write_atomically > open_private",
    "jobs.run_dir:write_atomically > fsync",
    "jobs.run_dir:write_atomically > replace",
    "jobs.run_dir:write_atomically > sync_folder",
)
APPENDING = (
    "jobs.run_dir:append_line > open_private",
    "jobs.run_dir:append_line > write_all",
    "jobs.run_dir:append_line > fsync",
)
DROPPING = ("jobs.run_dir:drop_lines_after > write_atomically",)
CACHING = (
    "augment.cache:cached_arrays > mkdir",
    "augment.cache:_write > rmtree",
    "augment.cache:_write > mkdir",
    "augment.cache:save_array > truncate",
    "augment.cache:_write > write_text",
    "augment.cache:_write > rename",
)

# A training, with the real trainer; which of the calls there
TRAINING = {
    "jobs.train:Trainer._resume > drop_lines_after": 1,
    "jobs.train:Trainer._resume > write_record": 1,
    "jobs.heartbeat:Heartbeat.__call__ > touch": 1,
    "jobs.train:Trainer._evaluated > append_line": 4,  # the second line of metrics
    "jobs.train:Trainer._save_weights > save_weights": 1,
    "jobs.train:Trainer._save_checkpoint > save_checkpoint": 2,
    "jobs.checkpoint:_write > make_private_folder": 1,
    "jobs.checkpoint:_write > write_atomically": 3,
    "jobs.train:Trainer._survey > write_record": 2,
    "jobs.worker:run_attempt > write_record": 1,
}

ATOMIC = "nothing but an atomic write (WRITING), made again by whoever needs it"
IN_A_TRANSACTION = "called in the transactions of others only"
AFTER_AN_ERROR = "only takes back what failed"
EXEMPT = {
    "jobs.checkpoint:resume > replace": "puts a damaged checkpoint aside; it would be found damaged again",
    "jobs.diagnostics.survey:survey > write_record": "the default of an argument: a worker hands its own writer in",
    "jobs.run_dir:append_line > ftruncate": AFTER_AN_ERROR,
    "jobs.run_dir:make_private_folder > make_private_folder": "its recursion: MAKING",
    "jobs.run_dir:write_atomically > unlink": AFTER_AN_ERROR,
    "jobs.train:Trainer._give_back > write_record": "without it the attempt is reserved more than it is held to",
    "jobs.worker:_explained > write_record": "why a job failed: without it the job fails once more, and says it then",
    "scheduler.calibration:keep > write_record": ATOMIC,
    "scheduler.calibration_process:CalibrationProcess.__init__ > Popen": "a measurement; it ends with its dispatcher",
    "scheduler.calibration_process:CalibrationProcess.__init__ > open_private": "its log",
    "scheduler.pictures.figure:save > write_bytes": "a picture for a person, who draws it again",
    "scheduler.tracing_process:TracingProcess.__init__ > Popen": "an estimate; it ends with its dispatcher",
    "scheduler.tracing_process:TracingProcess.__init__ > unlink": "its log",
    "scheduler.transitions:Transitions._event > execute": IN_A_TRANSACTION,
    "scheduler.transitions:Transitions._move > execute": IN_A_TRANSACTION,
}

TESTED = (
    *(DISPATCHER, DISPATCHER_OF_A_CROWD, DISPATCHER_AFTER_A_CRASH, PARENT, MAKING, SUBMITTING, DISPATCHING, WISHING),
    *(CLEANING, REBUILDING, MIGRATING, WRITING, APPENDING, DROPPING, CACHING, TRAINING),
)
