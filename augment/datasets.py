"""What can be loaded and how it is split: arrays, decoded once and kept memory-mapped on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from augment.cache import cached_arrays, copied_rows
from augment.catalog import DATASETS, part_sizes
from augment.cifar import cifar_source
from augment.errors import DataError
from augment.image_folder import image_folder_source
from augment.sources import DRAWN, Images, Source

Split = tuple[float, ...] | Literal["official"]

PART_NAMES = ("training", "validation", "test")

# One split for every job, whatever its training seed: accuracies are of the same images.
SPLIT_SEED = 0


@dataclass(frozen=True)
class DataRequest:
    """What to load.

    `root` is the image folder, or where CIFAR's files are or are downloaded to; what is drawn has none.
    `split` gives the fractions of the labelled part for training, validation and test; or for training and
    validation, the official test part being for test; or is "official": the labelled part for training, the
    official test part for both validation and test. `limit` takes at most that many images of the labelled
    part, class-balanced, before the split. `image_size` resizes an image folder's.
    """

    name: str
    root: Path | None = None
    split: Split = (0.8, 0.1, 0.1)
    limit: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Images (N, C, H, W) uint8, or points (N, D) float32, and their labels (N,) int64."""

    images: Images
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> Self:
        """A copy of the images at `index`."""
        return type(self)(copied_rows(self.images, index), copied_rows(self.labels, index))


@dataclass(frozen=True, eq=False)
class Parts:
    """A data set ready for training. `classes` are the names in label order."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image, or (D,) of one point."""
        return self.train.images.shape[1:]


def load(request: DataRequest, cache_dir: Path) -> Parts:
    """Read the data set, or map what an earlier read left in `cache_dir`, and split it. Raises DataError."""
    source = _source(request, cache_dir)
    arrays = cached_arrays(cache_dir / source.entry, source.fingerprint, source.build)
    classes = tuple(str(name) for name in arrays["classes"])
    labelled = Part(arrays["train_images"], arrays["train_labels"])
    order = class_balanced_order(labelled.labels, SPLIT_SEED)[: request.limit]
    fractions = (1.0,) if request.split == "official" else request.split
    official = [] if len(fractions) == 3 else [_official_test(request, arrays)]
    train, *held_out = [labelled.take(index) for index in _cut(order, fractions, request.name)] + official
    return Parts(train, held_out[0], held_out[-1], classes)


def class_balanced_order(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """An order of the images in which every prefix holds the classes in the proportions of the whole.

    Each class is shuffled, and the i-th of its n images stands (i + 1/2) / n of the way through.
    """
    random = np.random.RandomState(seed)  # its stream is frozen for good (NEP 19), as a split must be
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + 0.5) / np.repeat(counts, counts)
    return by_class[np.argsort(place, kind="stable")]


def _cut(order: npt.NDArray[np.int64], split: tuple[float, ...], name: str) -> list[npt.NDArray[np.int64]]:
    """The indices of training, validation and test, as far as the split names them, one after the other."""
    sizes = part_sizes(len(order), split)
    if min(sizes) < 1:
        counts = ", ".join(f"{size} for {part}" for size, part in zip(sizes, PART_NAMES, strict=False))
        raise DataError(f"{name}: the split leaves {counts} of {len(order)} images; each needs one")
    return np.split(order, np.cumsum(sizes)[:-1])


def _source(request: DataRequest, cache_dir: Path) -> Source:
    facts = DATASETS.get(request.name)
    if facts is None:
        raise DataError(f"{request.name}: no such data set; known are {', '.join(DATASETS)}")
    if facts.input_shape is not None and request.image_size not in (None, facts.image_size):
        found = "points" if facts.points else f"images of {facts.image_size} pixels"
        raise DataError(f"{request.name}: image_size is for imagefolder; these are {found}")
    if request.name in DRAWN:
        return DRAWN[request.name]()
    if request.name != "imagefolder":
        return cifar_source(request.name, request.root or cache_dir / "downloads")
    if request.root is None:
        raise DataError("imagefolder: needs a root, the folder that holds the class folders")
    return image_folder_source(request.root, request.image_size)


def _official_test(request: DataRequest, arrays: Mapping[str, npt.NDArray[Any]]) -> Part:
    if "test_images" not in arrays:
        raise DataError(f"{request.root}: split {json.dumps(request.split)} needs a test/ folder beside train/")
    test = Part(arrays["test_images"], arrays["test_labels"])
    return test.take(np.arange(len(test)))
