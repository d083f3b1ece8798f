"""The README's picture: `gpuq status` of the current state directory, as an SVG.

GPUQ_HOME=… uv run python docs/draw_status.py docs/status.svg
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from scheduler import render
from scheduler.home import default_home
from scheduler.overview import look

WIDTH = 144


def main(target: str) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(render.status(look(default_home(), None, "auto", None)))
    drawing = console.export_svg(title="gpuq status")
    Path(target).write_text(re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.S))


if __name__ == "__main__":
    main(*sys.argv[1:])
