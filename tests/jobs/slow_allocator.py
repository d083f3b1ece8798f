"""The caching allocator once more, slow and obvious: segments are lists of chunks, and each question scans them all."""

import itertools
import math
from collections.abc import Hashable, Iterable

MiB = 1 << 20
FREE, UNMAPPED = "free", "unmapped"

Chunk = tuple[Hashable, int]  # whose it is (a key, FREE or UNMAPPED), and its bytes


def joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Free neighbours as one, and unmapped ones."""
    runs = itertools.groupby(chunks, key=lambda chunk: chunk[0])
    return [(owner, sum(size for _, size in run)) for owner, run in runs]


def is_live(owner: Hashable) -> bool:
    return owner not in (FREE, UNMAPPED)


class SlowAllocator:
    """Each segment is reserved, and released, as a whole."""

    def __init__(self) -> None:
        self.small: list[list[Chunk]] = []
        self.large: list[list[Chunk]] = []

    def chunks(self) -> list[Chunk]:
        """From the lowest address to the highest."""
        return [chunk for segment in self.small + self.large for chunk in segment]

    def live(self) -> list[Hashable]:
        return [owner for owner, _ in self.chunks() if is_live(owner)]

    @property
    def allocated_bytes(self) -> int:
        return sum(size for owner, size in self.chunks() if is_live(owner))

    @property
    def reserved_bytes(self) -> int:
        return sum(size for owner, size in self.chunks() if owner != UNMAPPED)

    def malloc(self, key: Hashable, requested: int) -> None:
        size = math.ceil(requested / 512) * 512
        is_small = size <= MiB
        segments = self.small if is_small else self.large
        if not self.places(segments, size):
            own = math.ceil(size / (2 * MiB)) * 2 * MiB
            segments.append([(FREE, 2 * MiB if is_small else 20 * MiB if size < 10 * MiB else own)])
        whole, number, index = min(self.places(segments, size))
        if whole - size >= 512 if is_small else whole - size > MiB:
            segments[number][index : index + 1] = [(key, size), (FREE, whole - size)]
        else:
            segments[number][index] = (key, whole)

    def places(self, segments: list[list[Chunk]], size: int) -> list[tuple[int, int, int]]:
        return [
            (chunk_size, number, index)
            for number, segment in enumerate(segments)
            for index, (owner, chunk_size) in enumerate(segment)
            if owner == FREE and chunk_size >= size
        ]

    def free(self, key: Hashable) -> None:
        for segment in self.small + self.large:
            segment[:] = joined((FREE if owner == key else owner, size) for owner, size in segment)

    def empty_cache(self) -> None:
        for segments in (self.small, self.large):
            segments[:] = [segment for segment in segments if any(is_live(owner) for owner, _ in segment)]


class SlowExpandableAllocator(SlowAllocator):
    """Each pool is one endless segment, reserved and released by pages."""

    def __init__(self) -> None:
        super().__init__()
        self.small = [[(UNMAPPED, 2**60 * MiB)]]
        self.large = [[(UNMAPPED, 20 * 2**60 * MiB)]]

    def malloc(self, key: Hashable, requested: int) -> None:
        size = math.ceil(requested / 512) * 512
        is_small = size <= MiB
        (segment,) = self.small if is_small else self.large
        fitting = sorted((chunk_size, index) for chunk_size, _, index in self.places([segment], size))
        if not fitting:
            segment[:] = self.mapped(segment, size, 2 * MiB if is_small else 20 * MiB)
            fitting = [(chunk_size, index) for chunk_size, _, index in self.places([segment], size)]
        whole, index = fitting[0]
        for larger in fitting[1:]:
            if self.potential(segment, larger[1]) >= self.potential(segment, index):
                break
            whole, index = larger
        segment[index : index + 1] = [(key, size), (FREE, whole - size)] if whole > size else [(key, size)]

    def potential(self, segment: list[Chunk], index: int) -> int:
        (_, size), (following, room) = segment[index], segment[index + 1]
        return size + room if following == UNMAPPED else size

    def mapped(self, segment: list[Chunk], size: int, page: int) -> list[Chunk]:
        """With pages where, from low to high, the first row of chunks that are not live is large enough."""
        rows = [(live, list(run)) for live, run in itertools.groupby(segment, key=lambda chunk: is_live(chunk[0]))]
        chosen = next(row for live, row in rows if not live and sum(room for _, room in row) >= size)
        after, missing = [], size
        for owner, room in chosen:
            taken = min(room, math.ceil(max(0, missing) / page) * page) if owner == UNMAPPED else room
            after += [(FREE, taken), (owner, room - taken)]
            missing -= taken
        return joined(chunk for _, row in rows for chunk in (after if row is chosen else row) if chunk[1] > 0)

    def empty_cache(self) -> None:
        for (segment,), page in ((self.small, 2 * MiB), (self.large, 20 * MiB)):
            ends = itertools.accumulate(size for _, size in segment)
            after: list[Chunk] = []
            for (owner, size), end in zip(segment, ends, strict=True):
                front = -(end - size) % page
                pages = (size - front) // page * page
                if owner == FREE and pages > 0:
                    after += [(FREE, front), (UNMAPPED, pages), (FREE, size - front - pages)]
                else:
                    after.append((owner, size))
            segment[:] = joined(chunk for chunk in after if chunk[1] > 0)
