"""What is done to training images, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from augment.catalog import POLICY_NAMES
from augment.errors import AugmentError

if TYPE_CHECKING:
    from kornia.augmentation import AugmentationBase2D

Policy = Callable[[Tensor], Tensor]


def policy(name: str, image_size: int) -> Policy:
    """The policy `name` for images of `image_size` × `image_size` pixels.

    It takes `(B, C, image_size, image_size)` float32 images in [0, 1] on any device and returns as many of
    the same shape, range and device; normalising comes after it. Each sample has its own draw, from torch's
    global generator of the images' device, so seeding that generator fixes the result. C is 3 or 1; grayscale
    and saturation leave an image of one channel as it is, as in torchvision's transforms v2.

    Raises:
        AugmentError: no policy has this name or, from the policy, the images are of another size.
    """
    if name not in POLICY_NAMES:
        raise AugmentError(f"no augmentation policy is called {name!r}: choose from {', '.join(POLICY_NAMES)}")
    if name == "none":
        return _unchanged
    return Pipeline(name, image_size)


def _unchanged(images: Tensor) -> Tensor:
    return images


class Pipeline:
    """A policy that is a sequence of Kornia augmentations."""

    def __init__(self, name: str, image_size: int) -> None:
        from kornia.augmentation import ImageSequential

        self.name = name
        self.image_size = image_size
        self.operations = operations(name)
        # The sequence's features would keep its last output, a whole chunk, for display.
        self.sequence = ImageSequential(*self.operations, disable_sequential_features=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Raises AugmentError if the images are not of the pipeline's size."""
        height, width = images.shape[-2:]
        if height != width:
            raise AugmentError(
                f"policy {self.name!r} is for square images, these are {width}×{height} px; image_size makes them so"
            )
        if not height == width == self.image_size:
            raise AugmentError(
                f"policy {self.name!r} was made for images of {self.image_size} × {self.image_size} pixels, "
                f"not {height} × {width}"
            )
        for operation in self.operations:
            operation.set_rng_device_and_dtype(images.device, images.dtype)
        augmented: Tensor = self.sequence(images)
        return augmented


def operations(name: str) -> tuple[AugmentationBase2D, ...]:
    """The operations of policy `name`, in order; their parameters mean what they do in transforms v2."""
    # Kornia takes a second to import, which only a job that augments should pay.
    from kornia.augmentation import RandomGrayscale, RandomHorizontalFlip, RandomInvert, RandomVerticalFlip

    from augment.operations import (
        ColorJitter,
        RandomCrop,
        RandomPerspective,
        RandomResizedCrop,
        RandomRotation,
    )

    match name:
        case "crop-flip":
            return RandomCrop(padding=4), RandomHorizontalFlip(p=0.5)
        case "easy":
            return (
                RandomPerspective(distortion_scale=0.2, p=0.5),
                RandomGrayscale(p=0.1),
                RandomRotation(degrees=(0.0, 15.0)),
                RandomHorizontalFlip(p=0.5),
                ColorJitter(brightness=0.3, contrast=0.5, saturation=0.3),
            )
        case "hard2":
            return (
                RandomPerspective(distortion_scale=0.4, p=0.5),
                RandomGrayscale(p=0.1),
                RandomHorizontalFlip(p=0.5),
                RandomVerticalFlip(p=0.2),
                RandomInvert(p=0.2),
                ColorJitter(brightness=0.2, contrast=0.5, saturation=0.4),
            )
        case "hard3":
            return (
                RandomPerspective(distortion_scale=0.3, p=0.5),
                RandomGrayscale(p=0.1),
                RandomHorizontalFlip(p=0.5),
                RandomVerticalFlip(p=0.2),
                RandomInvert(p=0.2),
                RandomResizedCrop(scale=(0.3, 1.0)),
                ColorJitter(brightness=0.5, contrast=0.5, saturation=0.4),
            )
    raise AugmentError(f"policy {name!r} has no operations")
