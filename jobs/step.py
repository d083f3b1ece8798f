"""What happens to one batch. The trainer runs it, and the memory trace runs the very same."""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.optimizer import update

Amp = contextlib.AbstractContextManager[None] | torch.autocast


STEPS_PER_CHUNK = 2  # of a chunk's steps these show the most: the second has the optimizer's state


class Totals:
    """Sums over an epoch, kept on the device so that no batch waits for the host.

    `values` is float64 of shape (3,): the loss summed over images, the correct images, and the first step whose
    loss was not finite (-1: none).
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.empty(3, dtype=torch.float64, device=device)
        self.reset()

    def reset(self) -> None:
        self.values.zero_()
        self.values[2] = -1

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, step: int) -> None:
        """Count a batch by its mean loss (a scalar) and its logits `(B, classes)`."""
        self.values[0] += loss.double() * labels.shape[0]
        self.values[1] += (logits.argmax(1) == labels).sum()
        first_bad = torch.where(loss.isfinite(), -1.0, float(step)).to(self.values.dtype)
        self.values[2] = torch.where(self.values[2] >= 0, self.values[2], first_bad)

    def read(self, images: int) -> tuple[float, float, int | None]:
        """Mean loss and accuracy over `images`, and the first bad step. This waits for the device."""
        loss, correct, bad = self.values.tolist()
        return loss / images, correct / images, None if bad < 0 else int(bad)


def chosen_chunk_size(chunk_size: int | None, device: torch.device) -> int:
    """On a GPU a chunk of thousands hides what an operation costs the host; on the CPU it should fit the caches."""
    return chunk_size or (4096 if device.type == "cuda" else 256)


def steps_to_peak(
    chunk_size: int | None, batch_size: int, device: torch.device, steps_per_epoch: int | None = None
) -> int:
    """Steps after which a training has held the most: two steps into the second chunk, which is made beside the first's
    last batch; by the second step the optimizer has its state. An epoch ends a chunk, if it is known to be so short.
    """
    steps_per_chunk = max(1, chosen_chunk_size(chunk_size, device) // batch_size)
    return min(steps_per_chunk, steps_per_epoch or steps_per_chunk) + STEPS_PER_CHUNK


def mixed_precision(precision: str, device: torch.device) -> Amp:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    precision: str,
    totals: Totals,
    step: int,
    on_gradients: Callable[[], None] | None = None,
) -> None:
    """Forward, cross entropy, backward and update on images `(B, C, H, W)` and labels `(B,)`.

    `on_gradients` is called while the gradients are as the backward pass left them.
    """
    optimizer.zero_grad(set_to_none=True)
    with mixed_precision(precision, images.device):
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    if on_gradients is not None:
        on_gradients()
    update(optimizer)
    totals.add(loss.detach(), logits.detach(), labels, step)


@torch.no_grad()
def evaluation_step(network: nn.Module, images: Tensor, labels: Tensor, precision: str, totals: Totals) -> None:
    """Loss and accuracy of a batch, without gradients; the caller has set `network.eval()`."""
    with mixed_precision(precision, images.device):
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
    totals.add(loss, logits, labels, 0)
