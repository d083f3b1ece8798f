"""CIFAR-10 and CIFAR-100: read as torchvision reads them, split as the studies do; what is said without the files."""

import hashlib
import pickle
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from augment import cifar, datasets
from augment.datasets import DataRequest, Part, Parts, load
from augment.errors import MissingDataError
from augment.sources import Source, save_classes, save_part

HALVES = (0.5, 0.25, 0.25)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


class TestCifar100:
    """The 47,500 / 2,500 / 10,000 of the study of VGG08 and VGG38, on images that say their number."""

    @pytest.fixture
    def parts(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
        monkeypatch.setattr(datasets, "cifar_source", lambda name, _root: numbered_source(name))
        return load(DataRequest("cifar100", split=(0.95, 0.05)), cache)

    def test_95_and_5_percent_are_475_and_25_of_each_class(self, parts: Parts) -> None:
        assert np.bincount(parts.train.labels).tolist() == [475] * 100
        assert np.bincount(parts.validation.labels).tolist() == [25] * 100

    def test_training_and_validation_never_overlap(self, parts: Parts) -> None:
        numbers = np.concatenate([numbers_of(parts.train), numbers_of(parts.validation)])
        np.testing.assert_array_equal(np.sort(numbers), np.arange(50_000))

    def test_all_official_test_images_are_for_the_test(self, parts: Parts) -> None:
        np.testing.assert_array_equal(numbers_of(parts.test), np.arange(50_000, 60_000))

    def test_an_image_keeps_its_label(self, parts: Parts) -> None:
        for part in (parts.train, parts.validation, parts.test):
            np.testing.assert_array_equal(part.labels, numbers_of(part) % 100)


class TestCifar:
    def test_images_and_labels_are_torchvisions(self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_cifar10(root / "cifar-10-batches-py", monkeypatch)
        parts = load(DataRequest("cifar10", root, split="official"), cache)
        assert (len(parts.train), len(parts.test)) == (10, 2)
        assert parts.classes == ("even", "odd")
        assert parts.input_shape == (3, 32, 32)
        for image, label in zip(parts.train.images, parts.train.labels, strict=True):
            number = image[0, 0, 0]
            assert label == number % 2
            np.testing.assert_array_equal(image, cifar_image(number))

    def test_once_cached_its_files_are_not_needed(
        self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_cifar10(root / "cifar-10-batches-py", monkeypatch)
        load(DataRequest("cifar10", root, split=HALVES), cache)
        assert len(load(DataRequest("cifar10", root / "elsewhere", split=HALVES), cache).train) == 5

    @pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
    def test_without_files_or_network_the_folder_to_fill_is_named(
        self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
    ) -> None:
        def unreachable(*_: object, **__: object) -> None:
            raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        with pytest.raises(MissingDataError, match=f"^{root}/{folder}: .*unpack https://.* into {root}$"):
            load(DataRequest(name, root), cache)

    def test_a_resolver_that_never_answers_is_not_waited_for(
        self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        test_over = threading.Event()

        def hang(*_: object, **__: object) -> None:
            test_over.wait(60)
            raise urllib.error.URLError("too late")

        monkeypatch.setattr(urllib.request, "urlopen", hang)
        monkeypatch.setattr(cifar, "CONNECT_S", 0.05)
        with pytest.raises(MissingDataError, match=r"no answer in 0\.05 s"):
            load(DataRequest("cifar10", root), cache)
        test_over.set()


def numbered_source(name: str) -> Source:
    """60,000 images of one pixel, its bytes their number, of 100 classes in turn; the last 10,000 are for the test."""

    def build(folder: Path) -> None:
        numbers = np.arange(60_000)
        images = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.uint8)[..., None, None]
        save_part(folder, "train", images[:50_000], numbers[:50_000] % 100)
        save_part(folder, "test", images[50_000:], numbers[50_000:] % 100)
        save_classes(folder, [f"{label}" for label in range(100)])

    return Source(name, "", build)


def numbers_of(part: Part) -> npt.NDArray[np.int64]:
    """The numbers of the images of `numbered_source`."""
    high, middle, low = part.images[:, :, 0, 0].astype(np.int64).T
    return high << 16 | middle << 8 | low


def cifar_image(number: int) -> npt.NDArray[np.uint8]:
    """(3, 32, 32), every pixel different from its neighbours, the first `number`."""
    return ((np.arange(3 * 32 * 32) + number) % 256).astype(np.uint8).reshape(3, 32, 32)


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in CIFAR-10's format, two images each, and their check sums made known to torchvision."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(first: int) -> dict[str, object]:
        images = np.stack([cifar_image(number).ravel() for number in (first, first + 1)])
        return {"data": images, "labels": [first % 2, (first + 1) % 2]}

    train = [write(f"data_batch_{i}", batch(2 * i)) for i in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(40))])
    name, md5 = write("batches.meta", {"label_names": ["even", "odd"]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
