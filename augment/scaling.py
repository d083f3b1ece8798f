"""How pixels become what a network sees: minus a mean, divided by a deviation, channel by channel."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from augment.errors import DataError
from augment.sources import Images

_COUNTED_AT_ONCE = 1024


def scaling(
    images: Images,
    *,
    pixel_range: float = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) float32 to normalise by, for pixels in [0, 1].

    `mean` and `std` are given for pixels from 0 to `pixel_range`; what is not given is that of `images`, the
    training part: of pixels `channel_statistics`, of points (N, D) 0 and 1, their coordinates being fed as they are.
    Raises DataError when there are not as many as channels, or coordinates.
    """
    given_mean = _given("mean", mean, images, pixel_range)
    given_std = _given("std", std, images, pixel_range)
    if given_mean is not None and given_std is not None:
        return given_mean, given_std
    own_mean, own_std = _statistics(images)
    return own_mean if given_mean is None else given_mean, own_std if given_std is None else given_std


def _given(name: str, values: Sequence[float] | None, images: Images, pixel_range: float) -> Tensor | None:
    """The values for pixels in [0, 1]."""
    if values is None:
        return None
    if len(values) != images.shape[1]:
        of = "channels" if images.ndim > 2 else "coordinates"
        raise DataError(f"{name}: {len(values)} values for {images.shape[1]} {of}; expected one for each")
    return torch.tensor(values, dtype=torch.float64).div(pixel_range).float()


def _statistics(images: Images) -> tuple[Tensor, Tensor]:
    if images.ndim == 2:
        return torch.zeros(images.shape[1]), torch.ones(images.shape[1])
    return channel_statistics(cast("npt.NDArray[np.uint8]", images))


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
