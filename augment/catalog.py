"""What data there is and what can be done to it, known without loading any: no torch, no numpy."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from augment.errors import ImageFolderError

POLICY_NAMES = ("none", "crop-flip", "easy", "hard2", "hard3")

# The extensions torchvision.datasets.ImageFolder reads.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class DataFacts:
    """A data set before it is read. None: only the files can tell.

    `input_shape` is (C, H, W) of an image, or (D,) of a point.
    """

    name: str
    input_shape: tuple[int, ...] | None
    classes: int | None
    train_images: int | None
    test_images: int | None
    drawn: bool = False  # by gpuq itself: there are no files

    @property
    def points(self) -> bool:
        """Whether it holds points rather than images."""
        return self.input_shape is not None and len(self.input_shape) == 1

    @property
    def image_size(self) -> int | None:
        """The side of its square images; None also where there are none."""
        return None if self.input_shape is None or self.points else self.input_shape[-1]


DATASETS: Mapping[str, DataFacts] = MappingProxyType(
    {
        facts.name: facts
        for facts in (
            DataFacts("cifar10", (3, 32, 32), 10, 50_000, 10_000),
            DataFacts("cifar100", (3, 32, 32), 100, 50_000, 10_000),
            DataFacts("imagefolder", None, None, None, None),
            DataFacts("shapes", (3, 32, 32), 10, 5_000, 1_000, drawn=True),
            DataFacts("spirals", (2,), 2, 1_000, 1_000, drawn=True),
        )
    }
)


def policies_for(name: str) -> tuple[str, ...]:
    """The policies that go with the data set `name`: points are never augmented."""
    return ("none",) if DATASETS[name].points else POLICY_NAMES


def part_sizes(images: int, split: tuple[float, ...]) -> tuple[int, ...]:
    """How many of `images` go to each part of the split: cuts at the rounded cumulative fractions."""
    cuts = (round(images * fraction) for fraction in accumulate(split[:-1]))
    return tuple(end - start for start, end in pairwise((0, *cuts, images)))


def all_part_sizes(labelled: int, tested: int, split: tuple[float, ...] | Literal["official"]) -> tuple[int, int, int]:
    """Images for training, validation and test, of so many labelled ones and an official test part of `tested`."""
    if split == "official":
        return labelled, tested, tested
    train, validation, test = (*part_sizes(labelled, split), tested)[:3]
    return train, validation, test


@dataclass(frozen=True)
class ImageFolder:
    """Where the class folders of an image folder are, and their names in label order."""

    train: Path
    test: Path | None
    classes: tuple[str, ...]


def check_image_folder(root: Path) -> ImageFolder:
    """Find the class folders: those in `root`, or those in its train/ and, when there is one, its test/.

    Raises ImageFolderError naming the folder and what is expected there.
    """
    if not root.is_dir():
        raise ImageFolderError(f"{root}: no such folder; expected class folders, or train/ and test/ of them")
    # A folder called train that holds images rather than folders is a class.
    parted = bool(class_folders(root / "train"))
    train, test = (root / "train", root / "test") if parted else (root, None)
    classes = class_folders(train)
    if not classes:
        raise ImageFolderError(f"{root}: expected class folders, or train/ and test/ of them; found neither")
    if test is None or not (tested := class_folders(test)):
        return ImageFolder(train, None, classes)
    if unknown := [name for name in tested if name not in classes]:
        raise ImageFolderError(f"{test / unknown[0]}: no such class in {train}")
    return ImageFolder(train, test, classes)


def count_labelled_images(root: Path, at_most: int) -> int:
    """How many images the labelled part of an image folder has; counts no further than `at_most`."""
    layout = check_image_folder(root)
    files = (file for name in layout.classes for file in image_files(layout.train / name))
    return sum(1 for _ in islice(files, at_most))


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in `folder`, sorted; none when it is not a folder."""
    return tuple(entry.name for entry in _entries(folder) if entry.is_dir()) if folder.is_dir() else ()


def image_files(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The image files below `folder`, at any depth, each folder's in order of name."""
    for entry in _entries(folder):
        if entry.is_dir():
            yield from image_files(entry.path)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
            yield entry


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in `folder`, in order of name; hidden files and folders are left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ImageFolderError(f"{folder}: cannot be read ({error.strerror})") from error
