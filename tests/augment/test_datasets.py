"""What can be loaded, how it is split, and what is said when it cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augment import image_folder, shapes, spirals
from augment.catalog import DATASETS
from augment.datasets import DataRequest, Parts, class_balanced_order, load
from augment.errors import DataError, ImageFolderError, UnreadableImageError

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

    def test_two_fractions_divide_the_training_folder_and_leave_the_test_folder_whole(
        self, root: Path, ask: Ask
    ) -> None:
        paint_class(root / "train" / "a", range(4))
        paint_class(root / "test" / "a", range(50, 53))
        parts = ask(split=(0.75, 0.25))
        assert (len(parts.train), len(parts.validation)) == (3, 1)
        assert values(parts.train.images, parts.validation.images) == [0, 1, 2, 3]
        assert values(parts.test.images) == [50, 51, 52]

    def test_two_fractions_need_a_test_folder(self, root: Path, ask: Ask) -> None:
        paint_class(root / "a", range(4))
        with pytest.raises(DataError, match=rf"^{root}: split \[0\.75, 0\.25\] needs a test/ folder beside train/$"):
            ask(split=(0.75, 0.25))

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

    def test_so_it_is_where_the_split_has_two(self, root: Path, ask: Ask) -> None:
        paint_class(root / "train" / "a", range(4))
        paint_class(root / "test" / "a", range(4))
        with pytest.raises(DataError, match="2 for training, 0 for validation of 2 images"):
            ask(limit=2, split=(0.95, 0.05))

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

    @pytest.mark.parametrize(("file", "dtype"), [("a.png", np.uint16), ("a.tif", np.int32), ("b.tif", np.float32)])
    def test_an_image_of_more_than_8_bits_is_refused_rather_than_cut_off(
        self, root: Path, ask: Ask, file: str, dtype: npt.DTypeLike
    ) -> None:
        paint_class(root / "a", range(4))
        Image.fromarray(np.full((4, 4), 300, dtype=dtype)).save(root / "a" / file)
        with pytest.raises(UnreadableImageError, match=rf"a/{file}: .* mode [IF].*; expected 8 bits"):
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
        assert parts.input_shape == facts.input_shape
        assert len(parts.classes) == facts.classes

    def test_they_are_drawn_once(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load(DataRequest("shapes"), cache)
        monkeypatch.delattr(shapes, "draw")
        assert len(load(DataRequest("shapes"), cache).train) == 4000


class TestSpirals:
    def test_they_are_what_the_catalog_says(self, cache: Path) -> None:
        facts = DATASETS["spirals"]
        parts = load(DataRequest("spirals", split="official"), cache)
        assert (len(parts.train), len(parts.test)) == (facts.train_images, facts.test_images)
        assert parts.input_shape == facts.input_shape
        assert len(parts.classes) == facts.classes

    def test_they_are_the_points_of_seed_42_in_another_order(self, cache: Path) -> None:
        points, labels = spirals.draw(500, 42)
        train = load(DataRequest("spirals", split="official"), cache).train
        assert train.images.dtype == np.float32
        drawn, loaded = (np.column_stack([xy, label]) for xy, label in ((points, labels), (train.images, train.labels)))
        np.testing.assert_array_equal(np.unique(loaded, axis=0), np.unique(drawn, axis=0))

    def test_no_test_point_is_a_training_point(self, cache: Path) -> None:
        parts = load(DataRequest("spirals", split="official"), cache)
        both = np.concatenate([parts.train.images, parts.test.images])
        assert len(np.unique(both, axis=0)) == len(both)

    def test_fractions_divide_them_evenly_between_the_classes(self, cache: Path) -> None:
        parts = load(DataRequest("spirals"), cache)
        every = (parts.train, parts.validation, parts.test)
        assert [np.bincount(part.labels).tolist() for part in every] == [[400, 400], [50, 50], [50, 50]]


class TestRefusals:
    def test_an_unknown_name_is_told_the_known_ones(self, cache: Path) -> None:
        with pytest.raises(DataError, match="mnist: no such data set; known are cifar10, cifar100"):
            load(DataRequest("mnist"), cache)

    def test_an_image_folder_needs_a_root(self, cache: Path) -> None:
        with pytest.raises(DataError, match="imagefolder: needs a root"):
            load(DataRequest("imagefolder"), cache)

    def test_only_image_folders_are_resized(self, cache: Path) -> None:
        with pytest.raises(DataError, match="shapes: image_size is for imagefolder; these are images of 32 pixels"):
            load(DataRequest("shapes", image_size=64), cache)

    def test_points_have_no_size(self, cache: Path) -> None:
        with pytest.raises(DataError, match="spirals: image_size is for imagefolder; these are points"):
            load(DataRequest("spirals", image_size=2), cache)
