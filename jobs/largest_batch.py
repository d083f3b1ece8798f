"""The largest batch size with which a job fits in so many bytes, found by few traces.

Memory is nearly affine in the batch size, so a line through two traced sizes leads close to the answer. But only
nearly: what the peak is of changes with the size, images are augmented in chunks of whole batches, allocators round.
So no size is named that was not traced.
"""

import math
import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from jobs.spec import Constant, TrainSpec
from jobs.trace_messages import Request

MAX_TRACES = 6  # of other sizes than the job's own
STEPS = 100  # an answer is good to one in so many
# No further size is traced after so much of the CPU: other jobs wait for their estimates.
SEARCH_S = 10.0

_found: dict[bytes, int | None] = {}  # by `family`


def search(request: Request, own_bytes: int, images: int, predicted_bytes: Callable[[Request], int]) -> int | None:
    """What a request wants to know about batch sizes; None where it wants nothing, or that cannot be told.

    `own_bytes` were predicted of the request's own job, with `images` to train on. Jobs that differ in nothing but
    the batch size, and what memory does not depend on, are searched once in a process.
    """
    if request.most_bytes is None or (own_bytes <= request.most_bytes and not request.search):
        return None
    own_size = request.spec.train.batch_size

    def predicted(size: int) -> int:
        return own_bytes if size == own_size else predicted_bytes(_with_batch_size(request, size))

    if (key := family(request)) not in _found:
        try:
            _found[key] = largest_batch_size(predicted, own_size, request.most_bytes, images)
        except BaseException:  # a network may refuse another size in any way; the job itself was traced
            _found[key] = None
    return _found[key]


def family(request: Request) -> bytes:
    """Equal for requests that have the same answer."""
    spec = request.spec
    rates = {"lr": 1.0, "weight_decay": 0.5 if spec.optimizer.weight_decay else 0.0}
    spec = replace(spec, name="", priority=0, optimizer=replace(spec.optimizer, **rates), schedule=Constant())
    spec = replace(spec, train=TrainSpec(batch_size=1, precision=spec.train.precision))
    return msgspec.json.encode(replace(request, key=0, spec=spec))


def _with_batch_size(request: Request, size: int) -> Request:
    return replace(request, spec=replace(request.spec, train=replace(request.spec.train, batch_size=size)))


def largest_batch_size(
    predicted_bytes: Callable[[int], int],
    own_size: int,
    limit_bytes: int,
    most: int,
    clock: Callable[[], float] = time.process_time,
) -> int | None:
    """A batch size up to `most` that was seen to fit in `limit_bytes`; None if none was.

    Unless traces or time ran out, it is within 1 % of the largest: a size so much above did not fit. `predicted_bytes`
    traces a size; `own_size`, the job's, comes first, because it has been traced already. Raises what
    `predicted_bytes` raises.
    """
    until = clock() + SEARCH_S
    traced: dict[int, int] = {}
    fits, too_large = 0, most + 1
    size = own_size
    for _ in range(1 + MAX_TRACES):
        traced[size] = predicted_bytes(size)
        if traced[size] > limit_bytes:
            too_large = min(too_large, size)
        elif size <= most:
            fits = size
        if too_large - fits <= 1 + fits // STEPS or clock() > until:
            break
        size = next_size(traced, limit_bytes, fits, too_large)
    return fits or None


def next_size(traced: Mapping[int, int], limit_bytes: int, fits: int, too_large: int) -> int:
    """A size between `fits` and `too_large`, a step from what was traced: where a line meets the limit; the middle."""
    guess = where_a_line_meets(limit_bytes, traced, fits, too_large)
    if guess is None:
        guess = math.isqrt(fits * too_large)  # the geometric one: the two may be of very different orders
    step = min(too_large // STEPS + 1, (too_large - fits) // 2)
    return min(max(guess, fits + step), too_large - (step if too_large in traced else 1))


def where_a_line_meets(limit_bytes: int, traced: Mapping[int, int], fits: int, too_large: int) -> int | None:
    """Of the line through the size that fits and the one that does not; where all traced sizes do the same, through
    the two nearest to the limit, or through the one and the origin. None if memory does not grow along it.
    """
    if fits in traced and too_large in traced:
        one, other = fits, too_large
    else:
        one, other = [*sorted(traced, reverse=fits in traced), 0][:2]
    rise, run = traced[one] - traced.get(other, 0), one - other
    return one + (limit_bytes - traced[one]) * run // rise if rise * run > 0 else None
