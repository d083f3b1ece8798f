"""A data set in device memory, and its epochs: batches by index, no DataLoader, no copies from the host."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from augment.datasets import Part

Batches = Iterator[tuple[Tensor, Tensor]]


class ResidentSet:
    """Images as uint8, or points as float32, and labels as int64 on one device.

    `mean` and `std` are (C,), of pixel values in [0, 1], or (D,), of coordinates: `scaling` of the training part.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images = images  # (N, C, H, W), or (N, D)
        self.labels = labels  # (N,)
        self.mean = mean
        self.std = std

    @classmethod
    def of(cls, part: Part, device: torch.device, mean: Tensor, std: Tensor) -> "ResidentSet":
        """A part of a data set, brought to the device."""
        images, labels = _as_tensor(part.images), _as_tensor(part.labels)
        return cls(images.to(device), labels.to(device), mean.to(device), std.to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def training_batches(
        self,
        *,
        seed: int,
        epoch: int,
        batch_size: int,
        augment: Callable[[Tensor], Tensor],
        chunk_size: int,
        first_step: int = 0,
    ) -> Batches:
        """One epoch from `first_step` on: normalised images (B, C, H, W) float32 and labels (B,) int64.

        Every image comes once; the last batch may be smaller. `augment` maps (M, C, H, W) float32 in [0, 1]
        to the same; of points, (B, D) batches, it is to be the identity. It is given chunks of whole batches,
        as many as fit `chunk_size` images and at least one. What it draws from torch's global generators
        depends on (seed, epoch, chunk) alone and leaves the caller's draws undisturbed: an epoch resumed at
        `first_step` yields the bits it would have yielded.
        """
        steps_per_chunk = max(1, chunk_size // batch_size)
        first_chunk, first_batch = divmod(first_step, steps_per_chunk)
        order = epoch_order(len(self), seed, epoch).to(self.images.device)
        chunks = torch.split(order, steps_per_chunk * batch_size)
        for number, index in enumerate(chunks[first_chunk:], start=first_chunk):
            with seeded(stream_seed(seed, "augment", epoch, number), self.images.device):
                images = self._normalise(augment(to_unit_range(self.images.index_select(0, index))))
            batches = _batches(images, self.labels[index], batch_size, first_batch)
            del images  # to be freed with `batches`, before the next chunk is made
            yield from batches
            first_batch = 0

    def evaluation_batches(self, batch_size: int) -> Batches:
        """Every image once, in order: normalised (B, C, H, W), or (B, D), float32 and labels (B,) int64."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self.inputs(self.images[rows]), self.labels[rows]

    def inputs(self, raw: Tensor) -> Tensor:
        """Images (M, C, H, W) uint8, or points (M, D) float32, as a network sees those of this set."""
        return self._normalise(to_unit_range(raw))

    def _normalise(self, pixels: Tensor) -> Tensor:
        """In place, from [0, 1]."""
        by_channel = (-1, *[1] * (pixels.dim() - 2))
        return pixels.sub_(self.mean.view(by_channel)).div_(self.std.view(by_channel))


def stored_as(input_shape: tuple[int, ...]) -> torch.dtype:
    """What images (C, H, W), and points (D,), are kept as."""
    return torch.float32 if len(input_shape) == 1 else torch.uint8


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches in an epoch, with the last, partial one."""
    return -(-images // batch_size)


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's images (N,) int64, on the CPU: the same on every device for (seed, epoch)."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    return torch.randperm(images, generator=generator)


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one use of `seed`: the first bits of the BLAKE2b hash of the JSON list [seed, *path].

    Uses of different paths draw independently, however much each of them draws.
    """
    digest = hashlib.blake2b(json.dumps([seed, *path]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators of CPU and `device` start from `seed`; after, they are as before."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def to_unit_range(images: Tensor) -> Tensor:
    """A copy: uint8 images as float32 in [0, 1], points as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.clone()


def _batches(images: Tensor, labels: Tensor, batch_size: int, first: int) -> Batches:
    """The batches of a chunk from number `first` on.

    The last is a copy where it is but a part of the chunk: the caller still holds it while the next chunk is
    made, and a view would keep the whole of this one alive.
    """
    last = steps_per_epoch(len(images), batch_size) - 1
    for number in range(first, last + 1):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        yield images[rows].clone() if 0 < number == last else images[rows], labels[rows]


def _as_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """Shares the memory of `array` unless it is read-only (memory-mapped), which torch has no notion of."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
