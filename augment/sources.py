"""Where a data set's arrays come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from augment import shapes, spirals
from augment.cache import save_array

Images = npt.NDArray[np.uint8 | np.float32]  # images (N, C, H, W) uint8, or points (N, D) float32

# Part of the fingerprints: when images come to be decoded differently, raise it, and caches are rebuilt.
DECODER_VERSION = 1


@dataclass(frozen=True)
class Source:
    """A data set as the cache knows it: a name, what was read, and how to read it.

    `build(folder)` writes train_images.npy (images (N, C, H, W) uint8, or points (N, D) float32),
    train_labels.npy (N,) int64, classes.npy (the names in label order) and, where there is an official test
    part, test_images.npy and test_labels.npy.
    """

    entry: str
    fingerprint: str
    build: Callable[[Path], None]


def shapes_source() -> Source:
    """The figures of augment.shapes."""

    def build(folder: Path) -> None:
        images, labels = shapes.draw(shapes.TRAIN_IMAGES + shapes.TEST_IMAGES, shapes.SEED)
        cut = shapes.TRAIN_IMAGES
        save_part(folder, "train", images[:cut], labels[:cut])
        save_part(folder, "test", images[cut:], labels[cut:])
        save_classes(folder, shapes.CLASSES)

    return Source("shapes", f"{shapes.VERSION}", build)


def spirals_source() -> Source:
    """The points of augment.spirals."""

    def build(folder: Path) -> None:
        for part, seed in (("train", spirals.TRAIN_SEED), ("test", spirals.TEST_SEED)):
            save_part(folder, part, *spirals.draw(spirals.POINTS_PER_CLASS, seed))
        save_classes(folder, spirals.CLASSES)

    return Source("spirals", f"{spirals.VERSION}", build)


DRAWN: Mapping[str, Callable[[], Source]] = MappingProxyType({"shapes": shapes_source, "spirals": spirals_source})


def save_part(folder: Path, part: str, images: Images, labels: npt.NDArray[np.int64]) -> None:
    """Write the images, or points, and labels (N,) of the part "train" or "test"."""
    save_array(folder / f"{part}_images.npy", images)
    save_array(folder / f"{part}_labels.npy", labels)


def save_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write the names of the classes, in label order."""
    save_array(folder / "classes.npy", np.array(classes))
