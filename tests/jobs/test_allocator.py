"""What the caching allocator reserves: by its rules, by a second model of it, and by what real GPUs did."""

import gzip
import itertools
import math
from collections.abc import Hashable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_allocator import SlowAllocator, SlowExpandableAllocator

from jobs.allocator import CachingAllocator, Replay, replay

MiB = 1 << 20
MANY = settings(deadline=None, max_examples=100, derandomize=True)
SOME = settings(deadline=None, max_examples=40, derandomize=True)
RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "allocator-traces").glob("*.json.gz"))


def allocator_with(*sizes: int, expandable_segments: bool = False) -> CachingAllocator:
    """After allocations of these sizes, whose keys are 0, 1, 2, …"""
    allocator = CachingAllocator(expandable_segments=expandable_segments)
    for key, size in enumerate(sizes):
        allocator.malloc(key, size)
    return allocator


class TestBlocks:
    @pytest.mark.parametrize(("requested", "allocated"), [(1, 512), (512, 512), (513, 1024), (MiB - 1, MiB)])
    def test_are_multiples_of_512_bytes(self, requested: int, allocated: int) -> None:
        assert allocator_with(requested).allocated_bytes == allocated

    def test_take_the_smallest_free_block_that_holds_them(self) -> None:
        allocator = CachingAllocator()
        addresses = {size: allocator.malloc(size, size * MiB) for size in (40, 30, 20)}
        for size in addresses:
            allocator.free(size)
        assert allocator.malloc("next", 25 * MiB) == addresses[30]

    def test_take_the_lowest_of_equal_free_blocks(self) -> None:
        allocator = CachingAllocator()
        addresses = [allocator.malloc(key, 12 * MiB) for key in range(3)]
        for key in (1, 2, 0):
            allocator.free(key)
        assert allocator.malloc("next", 12 * MiB) == min(addresses)

    def test_leave_the_rest_of_a_free_block_to_others(self) -> None:
        allocator = allocator_with(40 * MiB)
        allocator.free(0)
        allocator.malloc(1, 20 * MiB)
        allocator.malloc(2, 20 * MiB)
        assert allocator.reserved_bytes == 40 * MiB

    @pytest.mark.parametrize(("rest", "allocated"), [(MiB, 20 * MiB), (MiB + 512, 19 * MiB - 512)])
    def test_that_are_large_keep_a_rest_of_up_to_a_mebibyte(self, rest: int, allocated: int) -> None:
        allocator = allocator_with(20 * MiB)
        allocator.free(0)
        allocator.malloc(1, 20 * MiB - rest)
        assert allocator.allocated_bytes == allocated

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_merge_with_free_neighbours_whatever_the_order(self, order: tuple[int, ...]) -> None:
        allocator = allocator_with(6 * MiB, 6 * MiB, 8 * MiB)
        for key in order:
            allocator.free(key)
        allocator.malloc("all of it", 20 * MiB)
        assert allocator.reserved_bytes == 20 * MiB


class TestSegments:
    @pytest.mark.parametrize(
        ("requested", "reserved"),
        [
            (1, 2 * MiB),
            (MiB, 2 * MiB),
            (MiB + 1, 20 * MiB),
            (10 * MiB - 512, 20 * MiB),
            (10 * MiB - 511, 10 * MiB),
            (10 * MiB + 1, 12 * MiB),
            (100 * MiB, 100 * MiB),
        ],
    )
    def test_come_in_sizes_that_depend_on_the_block_s(self, requested: int, reserved: int) -> None:
        assert allocator_with(requested).reserved_bytes == reserved

    def test_of_small_blocks_are_not_for_large_ones_nor_theirs_for_small_ones(self) -> None:
        assert allocator_with(15 * MiB, 512).reserved_bytes == 18 * MiB
        assert allocator_with(512, 15 * MiB).reserved_bytes == 18 * MiB

    def test_stay_reserved_when_their_blocks_are_freed(self) -> None:
        allocator = allocator_with(100 * MiB)
        allocator.free(0)
        assert (allocator.allocated_bytes, allocator.reserved_bytes) == (0, 100 * MiB)

    def test_without_a_live_block_are_released_by_empty_cache(self) -> None:
        allocator = allocator_with(100 * MiB, 2 * MiB, 2 * MiB, 512)
        for key in (0, 1, 3):
            allocator.free(key)
        allocator.empty_cache()
        assert allocator.reserved_bytes == 20 * MiB


class TestExpandableSegments:
    def test_grow_by_pages(self) -> None:
        sizes = [512, 15 * MiB, 30 * MiB]
        assert allocator_with(*sizes, expandable_segments=True).reserved_bytes == 2 * MiB + 60 * MiB

    def test_grow_a_free_block_at_their_end(self) -> None:
        allocator = allocator_with(20 * MiB, 20 * MiB, expandable_segments=True)
        allocator.free(1)
        allocator.malloc(2, 40 * MiB)
        assert allocator.reserved_bytes == 60 * MiB

    def test_release_free_pages_between_live_blocks(self) -> None:
        allocator = allocator_with(10 * MiB, 40 * MiB, 10 * MiB, expandable_segments=True)
        allocator.free(1)
        allocator.empty_cache()
        assert allocator.reserved_bytes == 40 * MiB

    def test_fill_the_lowest_gap_first(self) -> None:
        allocator = CachingAllocator(expandable_segments=True)
        addresses = [allocator.malloc(key, 20 * MiB) for key in range(5)]
        for key in (1, 3):
            allocator.free(key)
        allocator.empty_cache()
        assert [allocator.malloc(key, 20 * MiB) for key in (5, 6)] == [addresses[1], addresses[3]]


class TestReplay:
    def test_tells_the_peaks_and_the_end(self) -> None:
        events = [("a", 30 * MiB), ("b", 512), ("a", -30 * MiB), ("c", 15 * MiB)]
        assert replay(events) == Replay(
            peak_allocated_bytes=30 * MiB + 512, peak_reserved_bytes=32 * MiB, final_reserved_bytes=32 * MiB
        )

    def test_of_nothing_is_nothing(self) -> None:
        assert replay([]) == Replay(0, 0, 0)

    def test_can_be_with_expandable_segments(self) -> None:
        assert replay([("a", 30 * MiB)], expandable_segments=True).final_reserved_bytes == 40 * MiB


def test_a_key_cannot_be_allocated_twice() -> None:
    with pytest.raises(ValueError, match="0 cannot be allocated 512 bytes"):
        allocator_with(512).malloc(0, 512)


def test_nothing_cannot_be_allocated() -> None:
    with pytest.raises(ValueError, match="a positive size"):
        allocator_with(0)


def test_a_key_that_is_not_allocated_cannot_be_freed() -> None:
    with pytest.raises(KeyError):
        CachingAllocator().free(0)


# A random step: bytes to allocate; 0 to empty the cache; -n to free the nth live allocation, counted in a circle.
SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(MiB // 2, 5 * MiB),
    st.integers(8 * MiB, 23 * MiB),
    st.builds(
        lambda size, blocks: size + 512 * blocks,
        st.sampled_from([1024, MiB, 2 * MiB, 10 * MiB, 18 * MiB, 19 * MiB, 20 * MiB, 40 * MiB]),
        st.integers(-1, 1),
    ),
)
FREES = st.integers(-30, 0)
STEPS = st.lists(st.one_of(SIZES, FREES, FREES, FREES), min_size=40, max_size=200)


def random_walk(steps: list[int], *allocators: CachingAllocator | SlowAllocator) -> Iterator[dict[Hashable, int]]:
    """Take the steps with all allocators; after each, the sizes asked for by the keys that are live."""
    live: dict[Hashable, int] = {}
    for key, step in enumerate(steps):
        if step > 0:
            live[key] = step
            for allocator in allocators:
                allocator.malloc(key, step)
        elif step < 0 and live:
            freed = list(live)[-step % len(live)]
            del live[freed]
            for allocator in allocators:
                allocator.free(freed)
        elif step == 0:
            for allocator in allocators:
                allocator.empty_cache()
        yield live


class Placed(CachingAllocator):
    """Remembers where the live allocations are."""

    def __init__(self, *, expandable_segments: bool) -> None:
        super().__init__(expandable_segments=expandable_segments)
        self.addresses: dict[Hashable, int] = {}

    def malloc(self, key: Hashable, size: int) -> int:
        self.addresses[key] = super().malloc(key, size)
        return self.addresses[key]

    def free(self, key: Hashable) -> None:
        super().free(key)
        del self.addresses[key]

    def live(self) -> list[Hashable]:
        """From the lowest address to the highest."""
        return sorted(self.addresses, key=self.addresses.__getitem__)


@pytest.mark.parametrize("expandable_segments", [False, True], ids=["default", "expandable"])
class TestRandomTraces:
    @MANY
    @given(steps=STEPS)
    def test_are_placed_as_by_the_slow_model(self, expandable_segments: bool, steps: list[int]) -> None:
        slow = SlowExpandableAllocator() if expandable_segments else SlowAllocator()
        allocator = Placed(expandable_segments=expandable_segments)
        for _ in random_walk(steps, allocator, slow):
            assert allocator.live() == slow.live()
            assert allocator.allocated_bytes == slow.allocated_bytes
            assert allocator.reserved_bytes == slow.reserved_bytes

    @SOME
    @given(steps=STEPS)
    def test_never_overlap(self, expandable_segments: bool, steps: list[int]) -> None:
        allocator = Placed(expandable_segments=expandable_segments)
        for sizes in random_walk(steps, allocator):
            in_order = [(allocator.addresses[key], sizes[key]) for key in allocator.live()]
            assert all(one + size <= other for (one, size), (other, _) in itertools.pairwise(in_order))

    @SOME
    @given(steps=STEPS)
    def test_reserve_what_is_allocated_and_allocate_what_is_asked_for(
        self, expandable_segments: bool, steps: list[int]
    ) -> None:
        allocator = CachingAllocator(expandable_segments=expandable_segments)
        for sizes in random_walk(steps, allocator):
            assert allocator.peak_reserved_bytes >= allocator.reserved_bytes >= allocator.allocated_bytes
            assert allocator.peak_allocated_bytes >= allocator.allocated_bytes >= sum(sizes.values())

    @SOME
    @given(steps=STEPS)
    def test_leave_nothing_behind(self, expandable_segments: bool, steps: list[int]) -> None:
        allocator = CachingAllocator(expandable_segments=expandable_segments)
        *_, live = [{}, *random_walk(steps, allocator)]
        for key in live:
            allocator.free(key)
        allocator.empty_cache()
        assert (allocator.allocated_bytes, allocator.reserved_bytes) == (0, 0)


class Recording(msgspec.Struct):
    """What a GPU's allocator did; README.md beside the files tells the format."""

    segments: list[tuple[int, int, bool]]
    in_use: list[tuple[int, int]]
    events: list[tuple[str, int, int]]
    peak_reserved_bytes: int
    final_reserved_bytes: int


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda file: file.name.removesuffix(".json.gz"))
def recording(request: pytest.FixtureRequest) -> Recording:
    return msgspec.json.decode(gzip.decompress(request.param.read_bytes()), type=Recording)


def begun(recording: Recording) -> CachingAllocator:
    """An allocator in the state before the first event.

    Segment by segment, from end to end, what is free then is allocated, too, and freed when all is in its place.
    """
    allocator = CachingAllocator()
    free: list[tuple[str, int]] = []
    for start, size, is_small in sorted(recording.segments):
        if not is_small:  # or its first block would tell the size of the segment
            allocator.malloc("segment", size)
            allocator.free("segment")
        for address, length, is_free in pieces(start, start + size, is_small, dict(recording.in_use)):
            allocator.malloc(("free", address) if is_free else address, length)
            if is_free:
                free.append(("free", address))
    for key in free:
        allocator.free(key)
    return allocator


def pieces(start: int, end: int, is_small: bool, in_use: dict[int, int]) -> Iterator[tuple[int, int, bool]]:
    """The blocks of a segment: address, bytes, whether it is free.

    What is not in use in a large segment is free only if it exceeds 1 MiB, else the rest of the block before.
    """
    longest = MiB if is_small else end - start
    for address in [*sorted(address for address in in_use if start <= address < end), end]:
        if is_small or address - start > MiB:
            for gap in range(start, address, longest):
                yield gap, min(longest, address - gap), True
        if address < end:
            yield address, in_use[address], False
            start = address + math.ceil(in_use[address] / 512) * 512


def replayed(recording: Recording, allocator: CachingAllocator) -> Iterator[tuple[int, int]]:
    """What the model has reserved and what the GPU had, after each call of malloc, free or empty_cache."""
    really = allocator.reserved_bytes
    for kind, run in itertools.groupby(recording.events, key=lambda event: event[0]):
        for _, address, size in run:
            match kind:
                case "S" | "s":
                    really += size if kind == "S" else -size
                case "a":
                    allocator.malloc(address, size)
                    yield allocator.reserved_bytes, really
                case "f":
                    allocator.free(address)
                    yield allocator.reserved_bytes, really
        if kind == "s":
            allocator.empty_cache()
            yield allocator.reserved_bytes, really


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) == 6


def test_a_recording_s_peak_and_end_are_those_of_the_gpu(recording: Recording) -> None:
    allocator = begun(recording)
    for _ in replayed(recording, allocator):
        pass
    assert allocator.peak_reserved_bytes == recording.peak_reserved_bytes
    assert allocator.reserved_bytes == recording.final_reserved_bytes


def test_so_is_all_between(recording: Recording) -> None:
    allocator = begun(recording)
    assert allocator.reserved_bytes == sum(size for _, size, _ in recording.segments)
    assert all(modelled == really for modelled, really in replayed(recording, allocator))
