"""The cache of decoded arrays: built once, mapped by everybody, rebuilt rather than trusted."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from augment.cache import cached_arrays, copied_rows
from augment.errors import DataError

VALUES = np.arange(1000, dtype=np.int64)


class Builder:
    """Builds the entry and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        np.save(folder / "values.npy", VALUES)
        np.save(folder / "names.npy", np.array(["a", "b"]))


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "entry"


def test_arrays_are_built_once_and_memory_mapped(entry: Path) -> None:
    build = Builder()
    for _ in range(2):
        values = cached_arrays(entry, "1", build)["values"]
        assert isinstance(values, np.memmap)
        np.testing.assert_array_equal(values, VALUES)
    assert build.calls == 1


def test_another_fingerprint_replaces_the_entry(entry: Path) -> None:
    build = Builder()
    for fingerprint in ("1", "2", "2"):
        cached_arrays(entry, fingerprint, build)
    assert build.calls == 2
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == ["entry"]


def test_arrays_in_use_outlive_the_replacement_of_their_entry(entry: Path) -> None:
    values = cached_arrays(entry, "1", Builder())["values"]
    cached_arrays(entry, "2", Builder())
    np.testing.assert_array_equal(values, VALUES)


def truncate(entry: Path) -> None:
    with (entry / "values.npy").open("r+b") as file:
        file.truncate(2000)


def empty(entry: Path) -> None:
    (entry / "values.npy").write_bytes(b"")


def overwrite(entry: Path) -> None:
    np.save(entry / "values.npy", VALUES[:10])


def lose_an_array(entry: Path) -> None:
    (entry / "names.npy").unlink()


def lose_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def garble_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"fingerprint": "1", "arr')


@pytest.mark.parametrize("damage", [truncate, empty, overwrite, lose_an_array, lose_the_manifest, garble_the_manifest])
def test_a_damaged_entry_is_rebuilt(entry: Path, damage: Callable[[Path], None]) -> None:
    build = Builder()
    cached_arrays(entry, "1", build)
    damage(entry)
    arrays = cached_arrays(entry, "1", build)
    np.testing.assert_array_equal(arrays["values"], VALUES)
    assert build.calls == 2


def test_a_build_that_fails_leaves_nothing_to_be_trusted(entry: Path) -> None:
    def fail(folder: Path) -> None:
        np.save(folder / "values.npy", VALUES[:10])
        raise DataError("cannot go on")

    with pytest.raises(DataError, match="cannot go on"):
        cached_arrays(entry, "1", fail)
    np.testing.assert_array_equal(cached_arrays(entry, "1", Builder())["values"], VALUES)


def test_a_cache_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=f"^{tmp_path}/cache/entry: the decoded data cannot be kept there"):
        cached_arrays(tmp_path / "cache" / "entry", "1", Builder())


def ask(entry: Path, mine: Event, others: Event) -> None:
    """One of two processes that want the entry; whoever builds does not finish before the other has asked."""

    def build(folder: Path) -> None:
        assert others.wait(60)
        with (entry.parent / "builds").open("a") as log:
            log.write("built\n")
        Builder()(folder)

    mine.set()
    np.testing.assert_array_equal(cached_arrays(entry, "1", build)["values"], VALUES)


def test_two_processes_at_once_build_once(entry: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    first, second = spawn.Event(), spawn.Event()
    pair = [
        spawn.Process(target=ask, args=(entry, mine, others)) for mine, others in ((first, second), (second, first))
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join(60)
    assert [process.exitcode for process in pair] == [0, 0]
    assert (entry.parent / "builds").read_text() == "built\n"


def resident_kib(file: Path) -> int:
    """Of all that this process has mapped of a file (/proc/self/smaps)."""
    mappings = Path("/proc/self/smaps").read_text().split(f"{file}\n")[1:]
    return sum(int(text.partition("Rss:")[2].split()[0]) for text in mappings)


def test_copying_rows_of_a_mapped_array_leaves_none_of_it_resident(tmp_path: Path) -> None:
    file, written = tmp_path / "rows.npy", np.arange(1 << 20, dtype=np.int64).reshape(-1, 512)
    np.save(file, written)
    mapped = np.load(file, mmap_mode="r")
    index = np.random.default_rng(0).permutation(len(written))
    np.testing.assert_array_equal(copied_rows(mapped, index), written[index])
    assert resident_kib(file) == 0
    np.testing.assert_array_equal(mapped, written)
    assert resident_kib(file) >= written.nbytes >> 10
