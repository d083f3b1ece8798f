"""Kornia augmentations with the distributions of torchvision's transforms v2, one draw per sample.

Kornia's own flips, grayscale and inversion agree with v2 and are used as they are; the classes here stand in
for those that do not. They keep the images' shape, `(B, C, H, W)`, and their range, [0, 1]. They draw on the
device named by `set_rng_device_and_dtype`, from torch's global generator of that device, and never make the
host wait for it: what depends on a draw is selected by `torch.where`, `gather` or integer indices.

Importing this module imports Kornia, which takes about a second.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from kornia.augmentation import AugmentationBase2D
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import get_perspective_transform, remap, rotate, warp_perspective
from torch import Tensor

Params = dict[str, Tensor]


class Operation(AugmentationBase2D):
    """A Kornia augmentation given by its draw, `generate_parameters`, and `transform_images`."""

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        """All images transformed; Kornia draws which of them to use, with probability `p`."""
        raise NotImplementedError

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002 (Kornia's signature)
        params: Params,
        flags: dict[str, Any],  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return self.transform_images(input, params)


class RandomCrop(Operation):
    """Pad with zeros, then crop to the image's size: v2's `RandomCrop(size, padding)`.

    Kornia's either loops over the samples or interpolates.
    """

    def __init__(self, padding: int) -> None:
        super().__init__(p=1.0)
        self.padding = padding

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """`top` and `left` of the crop in the padded image, `(B,)` each."""
        top, left = torch.randint(0, 2 * self.padding + 1, (2, batch_shape[0]), device=self.device)
        return {"top": top, "left": left}

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        batch, _, height, width = images.shape
        padded = F.pad(images, [self.padding] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, tops, lefts, H, W)
        samples = torch.arange(batch, device=images.device)
        return windows[samples, :, params["top"], params["left"]]


class RandomPerspective(Operation):
    """Pull each corner inwards by whole pixels, interpolating: v2's `RandomPerspective(distortion_scale, p)`.

    Kornia draws fractions of a pixel, and its coordinates are those of pixel centres where v2's are those of
    pixel edges: half a pixel less.
    """

    def __init__(self, distortion_scale: float, p: float) -> None:
        super().__init__(p=p)
        self.distortion_scale = distortion_scale

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """`start_points` and `end_points`, `(B, 4, 2)`: the corners' (x, y), clockwise from the top left."""
        batch, _, height, width = batch_shape
        start = torch.zeros(batch, 4, 2, device=self.device)
        start[:, 1:3, 0] = width - 1
        start[:, 2:4, 1] = height - 1
        inset = torch.stack([self._inset(batch, width), self._inset(batch, height)], dim=-1)
        return {"start_points": start, "end_points": torch.where(start > 0, start - inset, start + inset)}

    def _inset(self, batch: int, side: int) -> Tensor:
        largest = int(self.distortion_scale * (side // 2))
        return torch.randint(0, largest + 1, (batch, 4), device=self.device)

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        height, width = images.shape[-2:]
        matrix = get_perspective_transform(params["start_points"] - 0.5, params["end_points"] - 0.5)
        with_mask = F.pad(images, [0, 0, 0, 0, 0, 1], value=1.0)
        warped = warp_perspective(with_mask, matrix, (height, width), align_corners=False)
        # v2 weighs a pixel half outside the image by its coverage once in interpolating and once in filling.
        return warped[:, :-1] * warped[:, -1:]


class RandomRotation(Operation):
    """Rotate about the centre, nearest pixel, zeros outside: v2's `RandomRotation(degrees)`.

    Kornia's reads its draw back to the host.
    """

    def __init__(self, degrees: tuple[float, float]) -> None:
        super().__init__(p=1.0)
        self.degrees = degrees

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """`degrees`, counter-clockwise, `(B,)`."""
        return {"degrees": torch.empty(batch_shape[0], device=self.device).uniform_(*self.degrees)}

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        return rotate(images, params["degrees"], mode="nearest", align_corners=False)


class RandomResizedCrop(Operation):
    """Crop a random area and resize it to the image's size: v2's `RandomResizedCrop(size, scale, ratio)`.

    No crop is larger than the image, so resizing only ever enlarges; v2's antialiasing filter is then plain
    bilinear interpolation. Kornia's agrees with v2 only where it loops over the samples.
    """

    ATTEMPTS = 10  # after so many crops that do not fit, v2 takes the whole image

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        super().__init__(p=1.0)
        self.scale = scale
        self.log_ratio = math.log(ratio[0]), math.log(ratio[1])

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """`top`, `left`, `height` and `width` of the crop, whole pixels as floats, `(B,)` each."""
        batch, _, height, width = batch_shape
        crop_height, crop_width = self._crop_size(batch, height, width)
        return {
            "top": self._offset(height - crop_height),
            "left": self._offset(width - crop_width),
            "height": crop_height,
            "width": crop_width,
        }

    def _crop_size(self, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Height and width of the first attempt that fits, `(B,)` each."""
        area, log_ratio = torch.empty(2, batch, self.ATTEMPTS, device=self.device)
        area.uniform_(*self.scale).mul_(height * width)
        ratio = log_ratio.uniform_(*self.log_ratio).exp_()
        heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
        any_fits, first = fits.any(dim=1), fits.int().argmax(dim=1, keepdim=True)
        return (
            torch.where(any_fits, heights.gather(1, first).squeeze(1), height),
            torch.where(any_fits, widths.gather(1, first).squeeze(1), width),
        )

    def _offset(self, room: Tensor) -> Tensor:
        """A whole number from 0 to `room`, each as likely."""
        return (torch.rand(room.shape, device=self.device) * (room + 1)).floor()

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        batch, _, height, width = images.shape
        rows = _stretch(params["top"], params["height"], height)
        columns = _stretch(params["left"], params["width"], width)
        return remap(
            images,
            map_x=columns[:, None, :].expand(batch, height, width),
            map_y=rows[:, :, None].expand(batch, height, width),
            padding_mode="border",  # a read of the last pixel may be rounded to beyond it
            align_corners=False,
            normalized_coordinates=True,
        )


def _stretch(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where each of `size` pixels reads when `length` of them, from `start`, stretch over all, `(B, size)`.

    The coordinates are those of `torch.nn.functional.grid_sample(align_corners=False)`, -1 to 1 from edge to
    edge, and the reads those of `interpolate(align_corners=False)`: none goes beyond the centre of the first
    or the last of the `length` pixels, so nothing outside them is seen.
    """
    read = (torch.arange(size, device=start.device) + 0.5) * (length / size)[:, None]
    inside = read.clamp_(min=0.5).minimum((length - 0.5)[:, None])
    return (start[:, None] + inside) * (2 / size) - 1


class ColorJitter(Operation):
    """Change brightness, contrast and saturation, in random order: v2's `ColorJitter`.

    Each change blends with a degenerate image (black, the mean grey, the grayscale image) by a factor uniform
    in 1 ± the amount given, and clamps to [0, 1]. Kornia's has one order for all samples, read on the host.
    """

    BRIGHTNESS, CONTRAST, SATURATION = range(3)

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        super().__init__(p=1.0)
        self.amounts = brightness, contrast, saturation

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """`factors` of brightness, contrast and saturation, and their `order`, `(B, 3)` each."""
        factors = torch.empty(len(self.amounts), batch_shape[0], device=self.device)
        for factor, amount in zip(factors, self.amounts, strict=True):
            factor.uniform_(max(0.0, 1.0 - amount), 1.0 + amount)
        order = torch.rand(batch_shape[0], len(self.amounts), device=self.device).argsort(dim=1)
        return {"factors": factors.T, "order": order}

    def transform_images(self, images: Tensor, params: Params) -> Tensor:
        for change in params["order"].unsqueeze(-1).unbind(dim=1):
            factor = params["factors"].gather(1, change)[..., None, None]
            degenerate = self._degenerate(images, change[..., None, None])
            images = torch.lerp(degenerate, images, factor).clamp_(0.0, 1.0)
        return images

    def _degenerate(self, images: Tensor, change: Tensor) -> Tensor:
        """What each change blends with, `(B, 1, H, W)`; `change` is `(B, 1, 1, 1)`."""
        gray = images if images.shape[1] == 1 else rgb_to_grayscale(images)
        flat = gray.mean(dim=(-2, -1), keepdim=True) * (change == self.CONTRAST)
        return torch.where(change == self.SATURATION, gray, flat)
