"""What the zygote's children do to one file, or to one entry of the cache."""

from pathlib import Path

import msgspec
import numpy as np

from augment.cache import cached_arrays, save_array
from jobs.run_dir import Line, append_line, drop_lines_after, write_atomically, write_record


class Word(msgspec.Struct, frozen=True):
    word: str


def write(path: str, word: str) -> int:
    write_record(Path(path), Word(word))
    return 0


def write_keeping(path: str, previous: str, content: str) -> int:
    write_atomically(Path(path), content.encode(), previous=Path(previous))
    return 0


def append(path: str, step: str) -> int:
    append_line(Path(path), Line(epoch=1, step=int(step)))
    return 0


def drop(path: str, step: str) -> int:
    drop_lines_after(Path(path), Line, int(step))
    return 0


def cache(entry: str) -> int:
    cached_arrays(Path(entry), "fingerprint", lambda folder: save_array(folder / "numbers.npy", np.arange(5)))
    return 0
