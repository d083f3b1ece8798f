"""What a network makes of images it was not trained on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from augment.resident import ResidentSet
from jobs.step import Totals, evaluation_step


def evaluate(
    network: nn.Module,
    part: ResidentSet,
    batch_size: int,
    precision: str,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float, int | None]:
    """Mean loss, accuracy, and whether the loss of a batch was not finite (else None), without augmentation.

    `on_batch` is called after each batch.
    """
    totals = Totals(part.images.device)
    with evaluating(network):
        for images, labels in part.evaluation_batches(batch_size):
            evaluation_step(network, images, labels, precision, totals)
            on_batch()
    return totals.read(len(part))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`network.eval()` for a while."""
    network.eval()
    try:
        yield
    finally:
        network.train()
