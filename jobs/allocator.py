"""PyTorch's CUDA caching allocator, in numbers: what it reserves on the device for a sequence of allocations.

The rules are those of c10/cuda/CUDACachingAllocator.cpp, the constants those of c10/core/AllocatorConfig.h, for one
stream and default settings; `expandable_segments:True` is an option. Not modelled: a full device (the real allocator
then empties its cache and tries again), the private pools of CUDA graphs, other settings.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter

MiB = 1 << 20

MIN_BLOCK_BYTES = 512  # kMinBlockSize: what every block is a multiple of
SMALL_BYTES = 1 * MiB  # kSmallSize: the largest block of the small pool
SMALL_SEGMENT_BYTES = 2 * MiB  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 * MiB  # kLargeBuffer; in newer versions the default of large_segment_size_mb
MIN_OWN_SEGMENT_BYTES = 10 * MiB  # kMinLargeAlloc: from here on a segment of the block's own size …
OWN_SEGMENT_STEP_BYTES = 2 * MiB  # … in multiples of kRoundLarge

# Of addresses for each pool: pages without end, the large pool's after the small one's.
_ADDRESS_SPACE_BYTES = LARGE_SEGMENT_BYTES << 24

Event = tuple[Hashable, int]  # an allocation's key, and its bytes: positive when it is made, negative when it is freed


@dataclass(frozen=True)
class Replay:
    """What the allocator did: bytes in live blocks, and bytes taken from the device."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    final_reserved_bytes: int


def replay(events: Iterable[Event], *, expandable_segments: bool = False) -> Replay:
    """Raises ValueError for a key that is allocated twice, KeyError for one that is freed without being allocated."""
    allocator = CachingAllocator(expandable_segments=expandable_segments)
    for key, size in events:
        if size > 0:
            allocator.malloc(key, size)
        else:
            allocator.free(key)
    return Replay(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes, allocator.reserved_bytes)


class CachingAllocator:
    """The allocator of one device, as `torch.cuda.memory_allocated()` and `memory_reserved()` see it."""

    def __init__(self, *, expandable_segments: bool = False) -> None:
        pool = ExpandablePool if expandable_segments else Pool
        self._small, self._large = pool(small=True), pool(small=False)
        self._live: dict[Hashable, Block] = {}
        self._allocated_bytes = self._peak_allocated_bytes = self._peak_reserved_bytes = 0

    @property
    def allocated_bytes(self) -> int:
        """Of live blocks, which may be larger than was asked for."""
        return self._allocated_bytes

    @property
    def reserved_bytes(self) -> int:
        """Of all segments."""
        return self._small.reserved_bytes + self._large.reserved_bytes

    @property
    def peak_allocated_bytes(self) -> int:
        return self._peak_allocated_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        return self._peak_reserved_bytes

    def malloc(self, key: Hashable, size: int) -> int:
        """Allocate `size` bytes under a key; the address they get, of which only the order means something.

        Raises ValueError if the key is in use or `size` is not positive: torch allocates nothing for no bytes.
        """
        if size <= 0 or key in self._live:
            raise ValueError(f"{key!r} cannot be allocated {size} bytes: a new key and a positive size are needed")
        rounded = _round_up(size, MIN_BLOCK_BYTES)
        block = self._live[key] = self._pool(rounded).malloc(rounded)
        self._allocated_bytes += block.size
        self._peak_allocated_bytes = max(self._peak_allocated_bytes, self._allocated_bytes)
        self._peak_reserved_bytes = max(self._peak_reserved_bytes, self.reserved_bytes)
        return block.address

    def free(self, key: Hashable) -> None:
        """Raises KeyError for a key that is not in use."""
        block = self._live.pop(key)
        self._allocated_bytes -= block.size
        self._pool(block.size).free(block)

    def empty_cache(self) -> None:
        """Give back to the device what can be (`torch.cuda.empty_cache()`)."""
        self._small.empty_cache()
        self._large.empty_cache()

    def _pool(self, block_size: int) -> "Pool":
        return self._small if block_size <= SMALL_BYTES else self._large


class State(Enum):
    LIVE = auto()
    FREE = auto()
    UNMAPPED = auto()  # addresses of an expandable segment without memory behind them


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of a segment, between its neighbours there."""

    address: int
    size: int
    state: State
    previous: "Block | None" = None
    next: "Block | None" = None

    @property
    def end(self) -> int:
        return self.address + self.size

    def split(self, size: int) -> "Block":
        """Keep the first `size` bytes; the rest becomes a block in the same state."""
        rest = Block(self.address + size, self.size - size, self.state, self, self.next)
        if self.next is not None:
            self.next.previous = rest
        self.next, self.size = rest, size
        return rest

    def absorb_next(self, following: "Block") -> None:
        self.size += following.size
        self.next = following.next
        if self.next is not None:
            self.next.previous = self


class Pool:
    """The blocks of one range of sizes in segments, each reserved as a whole."""

    def __init__(self, *, small: bool) -> None:
        self.reserved_bytes = 0
        self._small = small
        self._next_address = 0 if small else _ADDRESS_SPACE_BYTES
        self._free: list[tuple[int, int]] = []  # (size, address): the order in which best fit looks at them
        self._free_at: dict[int, Block] = {}

    def malloc(self, size: int) -> Block:
        """A live block of `size` bytes, or of more where too little would be left to split off."""
        block = self._best_fit(size) or self._grow(size)
        if self._may_split(block.size - size):
            self._keep(block.split(size))
        block.state = State.LIVE
        return block

    def free(self, block: Block) -> None:
        block.state = State.FREE
        self._keep(self._merged(block))

    def empty_cache(self) -> None:
        """Release the segments that are one free block."""
        for block in list(self._free_at.values()):
            if block.previous is None and block.next is None:
                self._drop(block)
                self.reserved_bytes -= block.size

    def _best_fit(self, size: int) -> Block | None:
        """Take the smallest free block that holds `size` bytes, of equal ones that with the lowest address."""
        index = bisect_left(self._free, (size, 0))
        return self._free_at.pop(self._free.pop(index)[1]) if index < len(self._free) else None

    def _grow(self, size: int) -> Block:
        """A free block: a new segment. It is taken to lie above the earlier ones; the driver does as it likes."""
        block = Block(self._next_address, segment_bytes(size), State.FREE)
        self._next_address = block.end
        self.reserved_bytes += block.size
        return block

    def _may_split(self, rest: int) -> bool:
        return rest >= MIN_BLOCK_BYTES if self._small else rest > SMALL_BYTES

    def _merged(self, block: Block) -> Block:
        """A block with those of its neighbours that are in the same state."""
        previous, following = block.previous, block.next
        if following is not None and following.state is block.state:
            self._drop(following)
            block.absorb_next(following)
        if previous is not None and previous.state is block.state:
            self._drop(previous)
            previous.absorb_next(block)
            return previous
        return block

    def _keep(self, block: Block) -> None:
        """Remember a block that is not live."""
        insort(self._free, (block.size, block.address))
        self._free_at[block.address] = block

    def _drop(self, block: Block) -> None:
        """Forget a block that was kept."""
        del self._free[bisect_left(self._free, (block.size, block.address))]
        del self._free_at[block.address]


class ExpandablePool(Pool):
    """The blocks of one range of sizes in a single segment that gets its memory page by page.

    See Note [Expandable Segments] in CUDACachingAllocator.cpp.
    """

    def __init__(self, *, small: bool) -> None:
        super().__init__(small=small)
        self._page_bytes = SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES
        self._unmapped = [Block(self._next_address, _ADDRESS_SPACE_BYTES, State.UNMAPPED)]  # by address

    def empty_cache(self) -> None:
        """Release the pages that are free from end to end."""
        for block in list(self._free_at.values()):
            start = _round_up(block.address, self._page_bytes)
            end = block.end - block.end % self._page_bytes
            if start < end:
                self._unmap(block, start, end)

    def _best_fit(self, size: int) -> Block | None:
        """As without expansion, but past blocks that could grow to more than the next larger one: it goes first."""
        index = bisect_left(self._free, (size, 0))
        if index == len(self._free):
            return None
        while index + 1 < len(self._free) and self._potential(index + 1) < self._potential(index):
            index += 1
        return self._free_at.pop(self._free.pop(index)[1])

    def _potential(self, index: int) -> int:
        """To what size a free block could grow."""
        block = self._free_at[self._free[index][1]]
        following = block.next
        return block.size + (following.size if following is not None and following.state is State.UNMAPPED else 0)

    def _grow(self, size: int) -> Block:
        """A free block of at least `size` bytes, by mapping pages at the lowest addresses that have room for it."""
        block = next(start for start in map(_row_start, self._unmapped) if _row_holds(start, size))
        if block.state is State.UNMAPPED:
            block = self._map(block, size)
        while block.size < size:
            assert block.next is not None  # the row goes on
            block = self._map(block.next, size - block.size)
        self._drop(block)
        return block

    def _may_split(self, rest: int) -> bool:
        return rest >= MIN_BLOCK_BYTES

    def _map(self, block: Block, size: int) -> Block:
        """Put pages behind the first `size` bytes of an unmapped block; the free block they are part of then."""
        self._drop(block)
        mapped_bytes = _round_up(min(size, block.size), self._page_bytes)
        if mapped_bytes < block.size:
            self._keep(block.split(mapped_bytes))
        block.state = State.FREE
        self.reserved_bytes += mapped_bytes
        block = self._merged(block)
        self._keep(block)
        return block

    def _unmap(self, block: Block, start: int, end: int) -> None:
        """Take the pages from address `start` to `end` from a free block."""
        self._drop(block)
        if block.address < start:
            front, block = block, block.split(start - block.address)
            self._keep(front)
        if end < block.end:
            self._keep(block.split(end - block.address))
        block.state = State.UNMAPPED
        self.reserved_bytes -= block.size
        self._keep(self._merged(block))

    def _keep(self, block: Block) -> None:
        if block.state is State.UNMAPPED:
            insort(self._unmapped, block, key=attrgetter("address"))
        else:
            super()._keep(block)

    def _drop(self, block: Block) -> None:
        if block.state is State.UNMAPPED:
            self._unmapped.remove(block)
        else:
            super()._drop(block)


def _row_start(unmapped: Block) -> Block:
    """The first of the blocks, none of them live, that lie in a row with an unmapped one.

    Free and unmapped neighbours alternate, and a row's first unmapped block is asked first: one step back is enough.
    """
    previous = unmapped.previous
    return previous if previous is not None and previous.state is State.FREE else unmapped


def _row_holds(block: Block | None, size: int) -> bool:
    """Whether the blocks from this one to the next live one have `size` bytes together."""
    while block is not None and block.state is not State.LIVE and size > 0:
        size -= block.size
        block = block.next
    return size <= 0


def segment_bytes(size: int) -> int:
    """The size of a new segment for a block of `size` bytes."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < MIN_OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return _round_up(size, OWN_SEGMENT_STEP_BYTES)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
