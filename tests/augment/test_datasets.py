"""What can be loaded, how it is split, and what is said when it cannot be."""

import hashlib
import pickle
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augment import cifar, image_folder, shapes
from augment.catalog import DATASETS
from augment.datasets import DataRequest, Parts, class_balanced_order, load
from augment.errors import DataError, ImageFolderError, MissingDataError, UnreadableImageError

HALVES = (0.5, 0.25, 0.25)

Ask = Callable[..., Parts]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def ask(root: Path, cache: Path) -> Ask:
    """Loads the image folder `root`, split in halves unless told otherwise."""

    def loaded(**changes: Any) -> Parts:
        return load(DataRequest(**({"name": "imagefolder", "root": root, "split": HALVES} | changes)), cache)

    return loaded


def paint(path: Path, value: int, size: tuple[int, int] = (4, 4)) -> None:
    """A PNG of one grey value, `size` = (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def paint_class(folder: Path, values: range) -> None:
    for value in values:
        paint(folder / f"{value}.png", value)


def values(*parts: npt.NDArray[np.uint8]) -> list[int]:
    """The grey values of the painted images, sorted."""
    return sorted(int(image[0, 0, 0]) for images in parts for image in images)


class TestImageFolder:
    def test_images_are_rgb_planes_labelled_by_sorted_class_name(self, root: Path, ask: Ask) -> None:
        for index in range(4):
            (root / "a").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 4), (10, 20, 30)).save(root / "a" / f"{index}.png")
            paint(root / "b" / f"{index}.png", 200, (5, 4))
        parts = ask()
        assert parts.classes == ("a", "b")
        assert parts.input_shape == (3, 4, 5)
        assert parts.train.images.dtype == np.uint8
        assert parts.train.labels.dtype == np.int64
        first = parts.train.images[parts.train.labels == 0][0]
        np.testing.assert_array_equal(first, np.broadcast_to([[[10]], [[20]], [[30]]], (3, 4, 5)))

    def test_parts_hold_every_image_once_and_each_class_in_proportion(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(8))
        paint_class(root / "b", range(100, 108))
        parts = ask()
        every = (parts.train, parts.validation, parts.test)
        assert values(*(part.images for part in every)) == [*range(8), *range(100, 108)]
        assert [np.bincount(part.labels).tolist() for part in every] == [[4, 4], [2, 2], [2, 2]]
        assert all(np.array_equal(part.labels, part.images[:, 0, 0, 0] // 100) for part in every)

    def test_fractions_divide_the_training_folder_alone(self, root: Path, ask: Ask) -> None:
        paint_class(root / "train" / "a", range(4))
        paint_class(root / "test" / "a", range(50, 54))
        parts = ask()
        assert values(parts.train.images, parts.validation.images, parts.test.images) == [0, 1, 2, 3]

    def test_the_official_split_validates_and_tests_on_the_test_folder(self, root: Path, ask: Ask) -> None:
        paint_class(root / "train" / "a", range(4))
        paint_class(root / "test" / "a", range(50, 53))
        parts = ask(split="official")
        assert values(parts.train.images) == [0, 1, 2, 3]
        assert values(parts.validation.images) == values(parts.test.images) == [50, 51, 52]

    def test_the_official_split_needs_a_test_folder(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(4))
        with pytest.raises(DataError, match=f'^{root}: split "official" needs a test/ folder'):
            ask(split="official")

    def test_a_limit_takes_that_many_images_evenly_from_the_classes(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(8))
        paint_class(root / "b", range(100, 108))
        parts = ask(limit=8)
        labels = np.concatenate([parts.train.labels, parts.validation.labels, parts.test.labels])
        assert np.bincount(labels).tolist() == [4, 4]

    def test_a_part_without_an_image_is_refused(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(8))
        with pytest.raises(DataError, match="2 for training, 0 for validation, 0 for test of 2 images"):
            ask(limit=2, split=(0.9, 0.05, 0.05))

    def test_image_size_scales_the_shorter_side_and_cuts_the_centre(self, root: Path, ask: Ask) -> None:
        wide = np.zeros((8, 24, 3), dtype=np.uint8)
        wide[:, 6:18] = 200  # the centre square, and what the filter reads beside it
        (root / "a").mkdir(parents=True)
        for index in range(4):
            Image.fromarray(wide).save(root / "a" / f"{index}.png")
        images = ask(image_size=4).train.images
        assert images.shape[1:] == (3, 4, 4)
        assert (images == 200).all()

    def test_images_of_two_sizes_need_an_image_size(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(4))
        paint(root / "a" / "odd.png", 1, (6, 5))
        with pytest.raises(ImageFolderError, match=r"odd\.png: 6×5 px where the first image has 4×4 px"):
            ask()

    def test_an_unreadable_image_is_named(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(4))
        (root / "a" / "broken.png").write_bytes((root / "a" / "1.png").read_bytes()[:40])
        with pytest.raises(UnreadableImageError, match=r"a/broken\.png: not a readable image"):
            ask()

    def test_class_folders_without_images_are_refused(self, root: Path, ask: Ask) -> None:
        (root / "a").mkdir(parents=True)
        with pytest.raises(ImageFolderError, match=f"^{root}: its class folders hold no images"):
            ask()

    def test_a_second_load_decodes_nothing(self, root: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        paint_class(root / "a", range(8))
        first = ask()
        monkeypatch.delattr(image_folder, "_decode")
        np.testing.assert_array_equal(ask().train.images, first.train.images)

    def test_another_split_or_limit_decodes_nothing(
        self, root: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paint_class(root / "a", range(8))
        ask()
        monkeypatch.delattr(image_folder, "_decode")
        assert len(ask(limit=4, split=(0.25, 0.25, 0.5)).test) == 2

    def test_a_new_image_is_seen(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(4))
        ask()
        paint(root / "a" / "9.png", 9)
        parts = ask()
        assert 9 in values(parts.train.images, parts.validation.images, parts.test.images)

    def test_two_sizes_of_one_folder_are_kept_side_by_side(
        self, root: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paint_class(root / "a", range(4))
        ask(image_size=4)
        ask(image_size=8)
        monkeypatch.delattr(image_folder, "_decode")
        assert ask(image_size=4).input_shape == (3, 4, 4)
        assert ask(image_size=8).input_shape == (3, 8, 8)


class TestClassBalancedOrder:
    @settings(deadline=None, max_examples=60, derandomize=True)
    @given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), seed=st.integers(0, 9))
    def test_every_prefix_has_the_proportions_of_the_whole(self, sizes: list[int], seed: int) -> None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        order = class_balanced_order(labels, seed)
        assert sorted(order) == list(range(len(labels)))
        seen = np.cumsum(labels[order][:, None] == np.arange(len(sizes)), axis=0)
        share = np.arange(1, len(labels) + 1)[:, None] * np.array(sizes) / len(labels)
        # A class is half an image off its place, and so may be each of those that a prefix is measured by.
        bound = 0.5 + len(sizes) / 2 * np.array(sizes) / len(labels)
        assert (np.abs(seen - share) <= bound + 1e-9).all()

    def test_equal_classes_are_equal_in_every_whole_round(self) -> None:
        labels = np.random.RandomState(1).permutation(np.repeat(np.arange(10), 50))
        rounds = labels[class_balanced_order(labels, 0)].reshape(-1, 10)
        assert (np.sort(rounds, axis=1) == np.arange(10)).all()

    def test_it_depends_on_its_seed_alone(self) -> None:
        labels = np.repeat(np.arange(4), 20)
        before = class_balanced_order(labels, 0)
        np.random.seed(5)
        np.testing.assert_array_equal(class_balanced_order(labels, 0), before)
        assert (class_balanced_order(labels, 1) != before).any()

    def test_it_is_the_same_for_ever(self) -> None:
        assert class_balanced_order(np.repeat(np.arange(3), 3), 0).tolist() == [2, 4, 7, 1, 3, 8, 0, 5, 6]


class TestShapes:
    def test_they_are_what_the_catalog_says(self, cache: Path) -> None:
        facts = DATASETS["shapes"]
        parts = load(DataRequest("shapes", split="official"), cache)
        assert (len(parts.train), len(parts.test)) == (facts.train_images, facts.test_images)
        assert parts.input_shape == (facts.channels, facts.image_size, facts.image_size)
        assert len(parts.classes) == facts.classes

    def test_they_are_drawn_once(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load(DataRequest("shapes"), cache)
        monkeypatch.delattr(shapes, "draw")
        assert len(load(DataRequest("shapes"), cache).train) == 4000


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


class TestRefusals:
    def test_an_unknown_name_is_told_the_known_ones(self, cache: Path) -> None:
        with pytest.raises(DataError, match="mnist: no such data set; known are cifar10, cifar100"):
            load(DataRequest("mnist"), cache)

    def test_an_image_folder_needs_a_root(self, cache: Path) -> None:
        with pytest.raises(DataError, match="imagefolder: needs a root"):
            load(DataRequest("imagefolder"), cache)

    def test_only_image_folders_are_resized(self, cache: Path) -> None:
        with pytest.raises(DataError, match="shapes: image_size is for imagefolder; these images are 32"):
            load(DataRequest("shapes", image_size=64), cache)


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
