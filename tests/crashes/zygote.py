"""Forks processes that have imported already what they need, and tells how they ended.

A line of JSON on the standard input for each: its environment, its working directory, a file for its output, a module's
function to call, and arguments. A line with the exit status for each on the standard output.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

import crash_point


def become(request: dict[str, Any]) -> int:
    """Be the process that is asked for; its exit code."""
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    module, function = request["call"].split(":")
    call = getattr(importlib.import_module(module), function)
    crash_point.arm()
    try:
        return int(call(*request["arguments"]))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def serve() -> None:
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os._exit(become(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    print("ready", flush=True)
    serve()
    os._exit(0)  # with torch, an orderly end takes seconds
