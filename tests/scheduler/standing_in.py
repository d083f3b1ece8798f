"""`gpuq` with a script in the worker's place: `python standing_in.py SCRIPT GRACE_S ARGUMENTS…`."""

import sys
from functools import partial

from scheduler import service
from scheduler.cli import main
from scheduler.dispatcher import Dispatcher
from scheduler.supervisor import Supervisor

if __name__ == "__main__":
    script, grace_s, *arguments = sys.argv[1:]
    supervisor = Supervisor([sys.executable, "-I", "-S", script])
    service.Dispatcher = partial(Dispatcher, supervisor=supervisor, grace_s=float(grace_s))  # type: ignore[assignment, misc]
    main(arguments)
