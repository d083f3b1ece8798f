"""Folders of image files, one folder a class, decoded by Pillow."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from augment.cache import new_array, save_array
from augment.catalog import check_image_folder, class_folders, image_files
from augment.errors import ImageFolderError, UnreadableImageError
from augment.sources import DECODER_VERSION, Source, save_classes

_THREADS = 2
_STRIDE = 256  # images decoded in one go by a thread


@dataclass(frozen=True)
class _Files:
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]


def image_folder_source(root: Path, image_size: int | None) -> Source:
    """A folder of class folders, decoded to RGB; `catalog.check_image_folder` says how it is laid out.

    With `image_size` the shorter side is resized to it, antialiased, and the centre cut out; without, all
    images must be of one size. The fingerprint is every file's path, size and time of change.
    """
    root = root.resolve()
    layout = check_image_folder(root)
    fingerprint = hashlib.blake2b(f"{DECODER_VERSION}\n".encode(), digest_size=16)
    parts = {"train": _list_files(layout.train, layout.classes, fingerprint.update)}
    if layout.test is not None:
        parts["test"] = _list_files(layout.test, layout.classes, fingerprint.update)

    def build(folder: Path) -> None:
        shape = _decode(parts["train"].paths[0], image_size).shape
        for part, files in parts.items():
            images = new_array(folder / f"{part}_images.npy", np.uint8, (len(files.paths), *shape))
            _decode_into(images, files.paths, image_size)
            save_array(folder / f"{part}_labels.npy", files.labels)
        save_classes(folder, layout.classes)

    key = hashlib.blake2b(f"{root}\0{image_size}".encode(), digest_size=8).hexdigest()
    return Source(f"imagefolder-{key}", fingerprint.hexdigest(), build)


def _list_files(folder: Path, classes: Sequence[str], note: Callable[[bytes], None]) -> _Files:
    """The images of a part, class by class, each noted with its path, size and time of change."""
    paths: list[str] = []
    labels: list[int] = []
    for name in class_folders(folder):
        label = classes.index(name)
        for file in image_files(folder / name):
            status = file.stat()
            note(f"{file.path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            paths.append(file.path)
            labels.append(label)
    if not paths:
        raise ImageFolderError(f"{folder}: its class folders hold no images")
    return _Files(tuple(paths), np.array(labels, dtype=np.int64))


def _decode_into(images: npt.NDArray[np.uint8], paths: Sequence[str], image_size: int | None) -> None:
    """Decode `paths` into the rows of `images` (N, 3, H, W), in threads: Pillow decodes without the GIL."""

    def decode_from(start: int) -> None:
        for row in range(start, min(start + _STRIDE, len(paths))):
            pixels = _decode(paths[row], image_size)
            if pixels.shape != images.shape[1:]:
                found, first = _size(pixels.shape), _size(images.shape[1:])
                raise ImageFolderError(
                    f"{paths[row]}: {found} where the first image has {first}; image_size makes them one"
                )
            images[row] = pixels

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(decode_from, range(0, len(paths), _STRIDE)):
            pass  # raises what the thread raised


def _decode(path: str, image_size: int | None) -> npt.NDArray[np.uint8]:
    """One image file as (3, H, W)."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would cut off at 255: all but white
                raise ValueError(f"pixels of Pillow's mode {file.mode}; expected 8 bits a channel")
            image = file.convert("RGB")
    except Exception as error:  # decoders raise what they like
        raise UnreadableImageError(f"{path}: not a readable image ({error})") from error
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}×{shape[1]} px"
