"""The drawn data set: ten classes that outlive augmentation and that no linear classifier tells apart."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from augment import shapes
from augment.datasets import Part
from augment.resident import ResidentSet
from augment.scaling import scaling

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def test_a_seed_draws_the_same_images() -> None:
    first, second = (shapes.draw(20, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_seed_draws_other_images_of_the_same_classes() -> None:
    (first, labels), (second, others) = shapes.draw(20, seed=3), shapes.draw(20, seed=4)
    assert (first != second).mean() > 0.9
    np.testing.assert_array_equal(labels, others)


def test_images_are_32_pixels_rgb_and_classes_take_turns() -> None:
    images, labels = shapes.draw(30, seed=0)
    assert images.shape == (30, 3, 32, 32)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [3] * 10


def test_figure_and_ground_differ_in_luminance_either_way() -> None:
    """So that grayscale and inversion leave the class as it was."""
    images, labels = shapes.draw(2000, seed=0)
    discs = torch.from_numpy(images[labels == shapes.CLASSES.index("disc")] / 255)
    luminance = torch.einsum("nchw,c->nhw", discs, torch.tensor([0.299, 0.587, 0.114]).double())
    ground = torch.cat([luminance[:, 0], luminance[:, -1]], dim=1).median(dim=1).values
    smooth = nn.functional.avg_pool2d(luminance[:, None], 5, stride=1).flatten(1)
    lighter, darker = smooth.amax(1) - ground, ground - smooth.amin(1)
    assert torch.maximum(lighter, darker).min() > 0.25
    assert 0.4 < (lighter > darker).double().mean() < 0.6


def outline(figure: Callable[[Floats, Floats], Floats], angle: float, mirror: int) -> Mask:
    """The figure turned by `angle` and, for `mirror` -1, mirrored, on a grid over [-1.3, 1.3]²."""
    down, across = np.meshgrid(*[np.linspace(-1.3, 1.3, 64)] * 2, indexing="ij")
    x, y = np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across
    return figure(mirror * x, y) < 0


def test_no_figure_turned_or_mirrored_is_another() -> None:
    poses = [(angle, mirror) for angle in np.radians(range(0, 360, 5)) for mirror in (1, -1)]
    upright = [outline(figure, 0, 1) for figure in shapes.FIGURES.values()]
    for name, figure in shapes.FIGURES.items():
        others = [mask for other, mask in zip(shapes.CLASSES, upright, strict=True) if other != name]
        for angle, mirror in poses:
            posed = outline(figure, angle, mirror)
            overlap = max((posed & other).sum() / (posed | other).sum() for other in others)
            assert overlap < 0.85, (name, angle, mirror)


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_a_figure_stays_within_its_image(name: str) -> None:
    """Nothing of it is further from its centre than 1.2 radii, and it is not a speck."""
    mask = outline(shapes.FIGURES[name], 0, 1)
    grid = np.linspace(-1.3, 1.3, 64)
    distance = np.hypot(*np.meshgrid(grid, grid))
    assert distance[mask].max() < 1.2
    assert mask.mean() > 0.1


def test_a_linear_classifier_stays_below_half() -> None:
    """Ridge regression on the pixels, in its dual form, at the best of several strengths."""
    images, labels = shapes.draw(3000, seed=0)
    pixels = images.reshape(3000, -1) / 255 - 0.5
    known, unseen = pixels[:2000], pixels[2000:]
    gram, targets = known @ known.T, np.eye(10)[labels[:2000]] - 0.1
    accuracies = []
    for strength in (10.0, 100.0, 1000.0):
        weights = known.T @ np.linalg.solve(gram + strength * np.eye(2000), targets)
        accuracies.append(((unseen @ weights).argmax(axis=1) == labels[2000:]).mean())
    assert max(accuracies) < 0.5


@pytest.mark.slow
def test_a_small_convolutional_network_learns_them_within_20_000_images() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = shapes.draw(5000, seed=0)
    mean, std = scaling(images[:4000])
    train, test = (
        ResidentSet.of(Part(images[part], labels[part]), torch.device("cpu"), mean, std)
        for part in (slice(4000), slice(4000, None))
    )
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(5):
        batches = train.training_batches(seed=0, epoch=epoch, batch_size=64, augment=lambda x: x, chunk_size=4096)
        for pixels, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels), targets).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        hits = sum(int((network(x).argmax(1) == y).sum()) for x, y in test.evaluation_batches(250))
    assert hits / len(test) > 0.9


def small_network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
