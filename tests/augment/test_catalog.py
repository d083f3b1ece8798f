"""What is known of data before it is read: the sizes of parts, the layout of an image folder."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.catalog import (
    DATASETS,
    POLICY_NAMES,
    check_image_folder,
    count_labelled_images,
    part_sizes,
    policies_for,
)
from augment.errors import ImageFolderError


def files(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_importing_it_imports_neither_numpy_nor_torch() -> None:
    code = "import augment.catalog, sys; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cifar_splits_into_40_5_and_5_thousand() -> None:
    assert part_sizes(50_000, (0.8, 0.1, 0.1)) == (40_000, 5_000, 5_000)


def test_two_fractions_divide_all_there_is_between_training_and_validation() -> None:
    assert part_sizes(50_000, (0.95, 0.05)) == (47_500, 2_500)


def test_a_product_that_falls_short_by_a_rounding_error_costs_no_image() -> None:
    assert 100 * 0.29 < 29
    assert part_sizes(100, (0.29, 0.71)) == (29, 71)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(images=st.integers(0, 10_000), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=2))
def test_parts_add_up_and_are_within_one_image_of_their_fractions(images: int, cuts: list[float]) -> None:
    split = tuple(end - start for start, end in pairwise([0, *sorted(cuts), 1]))
    sizes = part_sizes(images, split)
    assert sum(sizes) == images
    assert all(abs(size - images * part) <= 1.001 for size, part in zip(sizes, split, strict=True))


@pytest.mark.parametrize(
    ("name", "points", "image_size"),
    [("cifar10", False, 32), ("imagefolder", False, None), ("spirals", True, None)],
)
def test_facts_tell_points_from_images_and_the_size_of_these(name: str, points: bool, image_size: int | None) -> None:
    facts = DATASETS[name]
    assert (facts.points, facts.image_size) == (points, image_size)


@pytest.mark.parametrize(("name", "policies"), [("spirals", ("none",)), ("imagefolder", POLICY_NAMES)])
def test_points_are_not_augmented(name: str, policies: tuple[str, ...]) -> None:
    assert policies_for(name) == policies


def test_a_folder_of_class_folders_has_no_official_test_part(tmp_path: Path) -> None:
    layout = check_image_folder(files(tmp_path, "dog/1.png", "cat/1.png"))
    assert (layout.train, layout.test, layout.classes) == (tmp_path, None, ("cat", "dog"))


def test_train_and_test_folders_are_the_two_official_parts(tmp_path: Path) -> None:
    layout = check_image_folder(files(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png"))
    assert (layout.train, layout.test) == (tmp_path / "train", tmp_path / "test")
    assert layout.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert check_image_folder(files(tmp_path, "car/1.png", "train/1.png")).classes == ("car", "train")


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    assert check_image_folder(files(tmp_path, "cat/1.png", ".git/1.png")).classes == ("cat",)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match=r"nowhere: no such folder; expected class folders"):
        check_image_folder(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match=f"^{tmp_path}: expected class folders"):
        check_image_folder(files(tmp_path, "1.png"))


def test_a_test_class_that_training_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match="test/cow: no such class"):
        check_image_folder(files(tmp_path, "train/cat/1.png", "test/cow/1.png"))


@pytest.mark.parametrize(("at_most", "counted"), [(0, 0), (2, 2), (3, 3), (4, 3)])
def test_only_images_of_the_labelled_part_count(tmp_path: Path, at_most: int, counted: int) -> None:
    files(tmp_path, "train/a/1.png", "train/a/deep/2.JPG", "train/b/3.png", "train/b/notes.txt", "test/a/4.png")
    assert count_labelled_images(tmp_path, at_most) == counted
