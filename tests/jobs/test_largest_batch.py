"""The largest batch size that fits: what is named was traced, close to the best, and found in few traces."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tiny import job

from jobs import largest_batch
from jobs.estimator import answer
from jobs.largest_batch import MAX_TRACES, SEARCH_S, family, largest_batch_size, search
from jobs.spec import Adam, JobSpec, Sgd
from jobs.trace_messages import Request

MiB = 1 << 20
GiB = 1 << 30
IMAGES = 40_000

sizes = st.integers(1, 4096)
fixed_bytes = st.integers(100 * MiB, 2 * GiB)
bytes_per_image = st.integers(1000, 10 * MiB)
limits = st.integers(3 * GiB, 80 * GiB)


class Traced:
    """A memory, and which sizes were asked of it."""

    def __init__(self, memory: Callable[[int], int]) -> None:
        self.memory = memory
        self.bytes: dict[int, int] = {}

    def __call__(self, size: int) -> int:
        self.bytes[size] = self.memory(size)
        return self.bytes[size]


def rounded(size: int) -> int:
    """As an allocator takes it from a device."""
    return -(-size // (2 * MiB)) * 2 * MiB


@settings(deadline=None, max_examples=200, derandomize=True)
@given(own=sizes, fixed=fixed_bytes, each=bytes_per_image, limit=limits)
def test_of_memory_that_grows_with_the_images_it_is_within_a_percent(
    own: int, fixed: int, each: int, limit: int
) -> None:
    traced = Traced(lambda size: rounded(fixed + each * size))
    found = largest_batch_size(traced, own, limit, IMAGES)
    best = min(IMAGES, (limit // (2 * MiB) * 2 * MiB - fixed) // each)
    assert found is not None
    assert 0.985 * best - 1 <= found <= best
    assert len(traced.bytes) <= 1 + MAX_TRACES


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    own=sizes,
    most=st.integers(1, IMAGES),
    memory=st.lists(st.integers(0, 100), min_size=7, max_size=7),
    limit=st.integers(0, 100),
)
def test_however_memory_behaves_what_is_named_was_traced_and_fits(
    own: int, most: int, memory: list[int], limit: int
) -> None:
    traced = Traced(lambda size: memory[size % 7])
    found = largest_batch_size(traced, own, limit, most)
    assert found is None or (found <= most and traced.bytes[found] <= limit)


@pytest.mark.parametrize("own", [1, 64, 1000, 5000])
def test_memory_of_chunks_that_does_not_depend_on_the_size_at_first_is_no_obstacle(own: int) -> None:
    found = largest_batch_size(lambda size: max(3 * GiB, 600 * MiB + 4 * MiB * size), own, 6 * GiB, IMAGES)
    assert found is not None
    assert 0.97 * 1386 <= found <= 1386


def test_small_sizes_are_exact() -> None:
    assert largest_batch_size(lambda size: 600 + 100 * size, 256, 1500, IMAGES) == 9


def test_no_more_images_than_there_are() -> None:
    assert largest_batch_size(lambda size: size, 256, GiB, 800) == 800


def test_a_batch_of_more_images_than_there_are_is_none_to_name() -> None:
    assert largest_batch_size(lambda size: size, 1000, GiB, 800) == 800


def test_none_where_a_single_image_does_not_fit() -> None:
    assert largest_batch_size(lambda size: GiB + size, 256, GiB, IMAGES) is None


def test_the_search_ends_when_its_time_has() -> None:
    traced = Traced(lambda size: 600 + 7 * size)
    seconds = (SEARCH_S * one for one in count())
    largest_batch_size(traced, 256, 100_000, IMAGES, lambda: next(seconds))
    assert len(traced.bytes) == 2  # the one that was begun in time is still traced


# -- what a request wants to know -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_found_before() -> Iterator[None]:
    largest_batch._found.clear()
    yield
    largest_batch._found.clear()


def request(spec: JobSpec, most_bytes: int | None, *, search: bool = False) -> Request:
    values = {"key": 0, "device": "cpu", "precision": "fp32", "cache_dir": "/nowhere", "prepare": False}
    return Request(spec=spec, most_bytes=most_bytes, search=search, **values)  # type: ignore[arg-type]


def predicted(request: Request) -> int:
    return 100 * request.spec.train.batch_size


def with_size(spec: JobSpec, size: int) -> JobSpec:
    return replace(spec, train=replace(spec.train, batch_size=size))


@pytest.mark.parametrize(
    ("most_bytes", "wanted", "found"),
    [(None, True, None), (10_000, False, None), (10_000, True, 100), (1000, False, 10)],
    ids=["no device", "it fits", "it fits, but asked for", "it does not fit"],
)
def test_a_search_is_made_when_it_is_wanted(most_bytes: int | None, wanted: bool, found: int | None) -> None:
    asked = request(with_size(job("resv1"), 64), most_bytes, search=wanted)
    assert search(asked, 6400, IMAGES, predicted) == found


def test_a_network_that_refuses_another_size_leaves_it_unknown() -> None:
    def refusing(_: Request) -> int:
        raise SystemExit(3)

    assert search(request(with_size(job("resv1"), 64), 1000), 6400, IMAGES, refusing) is None


def test_jobs_that_need_the_same_but_for_the_batch_size_are_searched_once() -> None:
    asked = []

    def counted(request: Request) -> int:
        asked.append(request)
        return predicted(request)

    spec = job("resv1")
    first = search(request(with_size(spec, 64), 1000), 6400, IMAGES, counted)
    traces = len(asked)
    alike = replace(with_size(spec, 128), name="another", optimizer=replace(spec.optimizer, lr=0.001))
    assert search(request(alike, 1000), 12_800, IMAGES, counted) == first
    assert len(asked) == traces


@pytest.mark.parametrize(
    "other",
    [
        request(job("resv1"), 2000),
        request(job("bn4"), 1000),
        request(job("resv1", optimizer=Adam()), 1000),
        request(job("resv1", optimizer=Sgd(momentum=0, nesterov=False)), 1000),
    ],
    ids=["another limit", "another network", "another optimizer", "without momentum"],
)
def test_what_changes_memory_is_searched_anew(other: Request) -> None:
    assert family(other) != family(request(job("resv1"), 1000))


def test_of_a_real_network_the_size_that_is_named_fits_and_a_little_more_does_not(cache_dir: Path) -> None:
    def told(size: int, most_bytes: int | None = None) -> tuple[int, int | None]:
        asked = request(with_size(job("baseline-130k"), size), most_bytes, search=True)
        reply = answer(replace(asked, cache_dir=str(cache_dir)))
        return sum(reply.components.values()), reply.largest_batch_size

    own, _ = told(4)
    limit = own + 2 * MiB
    _, found = told(4, limit)
    assert found is not None
    assert told(found)[0] <= limit < told(found + 1 + found // 50)[0]
