"""A loss landscape of real images, saved row by row, so that it goes on where it was stopped."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from msgspec.structs import asdict, replace
from torch import nn

from augment.resident import ResidentSet
from jobs.diagnostics.landscape import Landscape, LandscapeSettings, explore
from jobs.errors import GpuqError
from jobs.evaluation import evaluate
from jobs.run_dir import read_record, write_record

_SAME_LOSS = 1e-5  # other numbers of threads, or another device, sum in another order


def survey(
    path: Path,
    network: nn.Module,
    part: ResidentSet,
    settings: LandscapeSettings,
    *,
    images: int | None,
    batch_size: int,
    precision: str,
    on_row: Callable[[Landscape], None],
    on_batch: Callable[[], None] = lambda: None,
    save: Callable[[Path, Landscape], None] = write_record,
    clock: Callable[[], float] = time.monotonic,
) -> Landscape:
    """The landscape of a network over at most `images` of a part, kept in `path`.

    `on_row` is told after each row, which `save` has then written, and may raise to stop. A file that holds some rows
    of the same landscape is gone on with; of another one, or of other weights, it is replaced. `on_batch` is called
    after each batch.
    """
    part = spread(part, images)

    def loss() -> float:
        return evaluate(network, part, batch_size, precision, on_batch)[0]

    own = loss()
    begun = Landscape(**asdict(settings), images=len(part), loss=own if math.isfinite(own) else None)
    found = known(path)
    landscape = found if found is not None and same(found, begun) else begun
    began, first = clock(), len(landscape.losses)
    with closing(explore(network, loss, settings, landscape.losses)) as rows:
        for row in rows:
            losses = [*landscape.losses, row]
            speed = (len(losses) - first) * settings.grid / max(clock() - began, 1e-9)
            landscape = replace(landscape, losses=losses, evaluations_per_s=speed)
            save(path, landscape)
            on_row(landscape)
    return landscape


def known(path: Path) -> Landscape | None:
    """The landscape in a file; None if there is none. Raises GpuqError if the file holds anything else."""
    try:
        return read_record(path, Landscape)
    except GpuqError as error:
        raise GpuqError(f"{error}; remove the file to have it made anew") from error


def same(one: Landscape, other: Landscape) -> bool:
    """Whether two are, or become, one and the same: of the same points and, by the network's own loss, weights."""
    if None in (one.loss, other.loss):
        close = one.loss is other.loss
    else:
        close = math.isclose(one.loss or 0.0, other.loss or 0.0, rel_tol=_SAME_LOSS)
    return close and _of_no_weights(one) == _of_no_weights(other)


def _of_no_weights(landscape: Landscape) -> Landscape:
    return replace(landscape, losses=[], evaluations_per_s=0.0, loss=None)


def spread(part: ResidentSet, images: int | None) -> ResidentSet:
    """At most so many images, spread evenly: files are often in order of class."""
    if images is None or images >= len(part):
        return part
    index = torch.linspace(0, len(part) - 1, images, dtype=torch.float64).round().long().to(part.labels.device)
    return ResidentSet(part.images[index], part.labels[index], part.mean, part.std)


def evaluation_batch_size(batch_size: int, device: torch.device) -> int:
    """On a GPU larger batches than training's hide what an operation costs the host: nothing is kept for gradients."""
    return max(batch_size, 1024) if device.type == "cuda" else batch_size
