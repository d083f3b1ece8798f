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

_COUNTED_AT_ONCE = 1024


class ResidentSet:
    """Images as uint8 and labels as int64 on one device.

    `mean` and `std` are (C,), of pixel values in [0, 1]: `channel_statistics` of the training part.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images = images  # (N, C, H, W)
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
        to the same. It is given chunks of whole batches, as many as fit `chunk_size` images and at least one.
        What it draws from torch's global generators depends on (seed, epoch, chunk) alone and leaves the
        caller's draws undisturbed: an epoch resumed at `first_step` yields the bits it would have yielded.
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
        """Every image once, in order: normalised (B, C, H, W) float32 and labels (B,) int64."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self._normalise(to_unit_range(self.images[rows])), self.labels[rows]

    def _normalise(self, pixels: Tensor) -> Tensor:
        """In place, from [0, 1]."""
        return pixels.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])


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
    """uint8 images as float32 in [0, 1]."""
    return images.float().div_(255)


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) float32 of the pixels, in [0, 1], of images (N, C, H, W).

    Exact but for the rounding of the result: from counts of the 256 values, in float64. The deviation of a
    constant channel is given as 1, so that it can be divided by.
    """
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), _COUNTED_AT_ONCE):
        by_channel = images[start : start + _COUNTED_AT_ONCE].swapaxes(0, 1)
        counts += [np.bincount(channel.ravel(), minlength=256) for channel in by_channel]
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    std = np.where(np.count_nonzero(counts, axis=1) > 1, np.sqrt(variance), 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


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
