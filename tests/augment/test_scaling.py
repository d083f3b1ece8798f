"""How pixels become what a network sees: the studies' scalings, against values worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from augment import scaling as scaling_module
from augment.datasets import Part
from augment.errors import DataError
from augment.resident import ResidentSet
from augment.scaling import channel_statistics, scaling
from augment.sources import Images

torch.set_num_threads(1)

CPU = torch.device("cpu")

# Three images of one pixel and three channels.
PIXELS = np.array([[0, 0, 0], [255, 255, 255], [51, 102, 204]], dtype=np.uint8)[..., None, None]


def noise(count: int, top: int) -> npt.NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, top, (count, 3, 4, 4)).astype(np.uint8)


def scaled(images: Images, mean_and_std: tuple[Tensor, Tensor]) -> Tensor:
    """What a network sees of the images."""
    part = Part(images, np.zeros(len(images), np.int64))
    ((pixels, _),) = ResidentSet.of(part, CPU, *mean_and_std).evaluation_batches(len(images))
    return pixels


class TestGiven:
    def test_pixels_up_to_1_are_scaled_as_from_alexnet_to_residual_networks(self) -> None:
        given = scaling(PIXELS, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
        black = [-1.98947, -1.98029, -1.70680]  # -0.4914 / 0.2470 …
        white = [2.05911, 2.12649, 2.11583]  # (1 - 0.4914) / 0.2470 …
        last = [-1.17976, -0.33758, 1.35130]  # (0.2 - 0.4914) / 0.2470, (0.4 - 0.4822) / 0.2435 …
        torch.testing.assert_close(
            scaled(PIXELS, given)[:, :, 0, 0], torch.tensor([black, white, last]), atol=1e-5, rtol=0
        )

    def test_pixels_up_to_255_are_shifted_as_for_resnet_and_plainnet(self) -> None:
        given = scaling(PIXELS, pixel_range=255, mean=(125, 123, 114), std=(1, 1, 1))
        shifted = [[-125.0, -123.0, -114.0], [130.0, 132.0, 141.0], [-74.0, -21.0, 90.0]]
        torch.testing.assert_close(scaled(PIXELS, given)[:, :, 0, 0], torch.tensor(shifted), atol=1e-4, rtol=0)

    def test_mean_0_and_deviation_1_leave_pixels_between_0_and_1(self) -> None:
        given = scaling(PIXELS, mean=(0, 0, 0), std=(1, 1, 1))
        unit = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.2, 0.4, 0.8]]
        torch.testing.assert_close(scaled(PIXELS, given)[:, :, 0, 0], torch.tensor(unit))

    def test_nothing_is_read_from_the_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(scaling_module, "channel_statistics")
        assert len(scaling(PIXELS, mean=(0, 0, 0), std=(1, 1, 1))) == 2

    @pytest.mark.parametrize("name", ["mean", "std"])
    def test_there_must_be_one_for_each_channel(self, name: str) -> None:
        with pytest.raises(DataError, match=f"^{name}: 2 values for 3 channels; expected one for each$"):
            scaling(PIXELS, **{name: (0.5, 0.5)})


class TestComputed:
    def test_without_mean_and_deviation_both_are_the_images_own(self) -> None:
        pixels = scaled(noise(50, 200), scaling(noise(50, 200)))
        torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(pixels.std((0, 2, 3), correction=0), torch.ones(3))

    @pytest.mark.parametrize("pixel_range", [1, 255])
    def test_beside_a_given_mean_the_deviation_is_the_images_own(self, pixel_range: int) -> None:
        mean, std = scaling(noise(50, 200), pixel_range=pixel_range, mean=[0.25 * pixel_range] * 3)
        torch.testing.assert_close(mean, torch.full((3,), 0.25))
        assert torch.equal(std, channel_statistics(noise(50, 200))[1])

    @pytest.mark.parametrize("pixel_range", [1, 255])
    def test_beside_a_given_deviation_the_mean_is_the_images_own(self, pixel_range: int) -> None:
        mean, std = scaling(noise(50, 200), pixel_range=pixel_range, std=[0.25 * pixel_range] * 3)
        assert torch.equal(mean, channel_statistics(noise(50, 200))[0])
        torch.testing.assert_close(std, torch.full((3,), 0.25))


class TestPoints:
    POINTS = np.array([[3.0, -1.0], [5.0, 7.0]], dtype=np.float32)

    def test_coordinates_are_fed_as_they_are(self) -> None:
        assert torch.equal(scaled(self.POINTS, scaling(self.POINTS)), torch.from_numpy(self.POINTS))

    def test_a_mean_and_deviation_given_are_of_the_coordinates(self) -> None:
        pixels = scaled(self.POINTS, scaling(self.POINTS, mean=(4, 3), std=(1, 2)))
        assert pixels.tolist() == [[-1, -2], [1, 2]]

    def test_there_must_be_one_for_each_coordinate(self) -> None:
        with pytest.raises(DataError, match=r"^mean: 3 values for 2 coordinates; expected one for each$"):
            scaling(self.POINTS, mean=(0, 0, 0))


class TestChannelStatistics:
    def test_they_are_exact(self) -> None:
        images = noise(3000, 256)
        images[:, 1] //= 9
        mean, std = channel_statistics(images)
        unit = images.astype(np.float64) / 255
        assert mean.tolist() == pytest.approx(unit.mean(axis=(0, 2, 3)), rel=1e-7)
        assert std.tolist() == pytest.approx(unit.std(axis=(0, 2, 3)), rel=1e-7)

    def test_a_constant_channel_can_be_divided_by(self) -> None:
        images = np.full((5, 2, 4, 4), 51, dtype=np.uint8)
        mean, std = channel_statistics(images)
        assert mean.tolist() == pytest.approx([0.2, 0.2])
        assert std.tolist() == [1, 1]
