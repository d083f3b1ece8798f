"""Data in device memory: what an epoch yields, and what it depends on."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from augment.datasets import Part
from augment.resident import ResidentSet, epoch_order, seeded, steps_per_epoch, stream_seed

torch.set_num_threads(1)

CPU = torch.device("cpu")
AS_STORED = (
    torch.zeros(1),
    torch.full((1,), 1 / 255),
)  # a mean and deviation that give back the stored values

few = settings(deadline=None, max_examples=40, derandomize=True)


def numbered(count: int) -> Part:
    """Images of 1×2×2 pixels, each labelled with its number and filled with it, modulo 256."""
    numbers = np.arange(count, dtype=np.int64)
    return Part(np.broadcast_to((numbers % 256).astype(np.uint8)[:, None, None, None], (count, 1, 2, 2)), numbers)


def scattered(count: int) -> Part:
    """Points in the plane, each labelled with its number."""
    return Part(np.random.RandomState(0).normal(size=(count, 2)).astype(np.float32), np.arange(count, dtype=np.int64))


def resident(count: int) -> ResidentSet:
    return ResidentSet.of(numbered(count), CPU, *AS_STORED)


def identity(images: Tensor) -> Tensor:
    return images


def noisy(images: Tensor) -> Tensor:
    return (images + torch.rand_like(images)) / 2


def noting(note: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """An augmentation that changes nothing, but has each chunk noted."""

    def augment(images: Tensor) -> Tensor:
        note(images)
        return images

    return augment


def epoch(data: ResidentSet, augment: Callable[[Tensor], Tensor] = identity, **changes: Any) -> list[Any]:
    """The (images, labels) of one epoch, in batches of 4 and chunks of 10 unless told otherwise."""
    settings = {"seed": 0, "epoch": 0, "batch_size": 4, "chunk_size": 10} | changes
    return list(data.training_batches(augment=augment, **settings))


def same(first: list[Any], second: list[Any]) -> bool:
    """Whether two lists of batches are equal bit for bit."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True)
    )


class TestTrainingBatches:
    @few
    @given(count=st.integers(1, 50), batch_size=st.integers(1, 12), chunk_size=st.integers(1, 40))
    def test_every_image_comes_once_an_epoch(self, count: int, batch_size: int, chunk_size: int) -> None:
        batches = epoch(resident(count), batch_size=batch_size, chunk_size=chunk_size)
        assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(count))

    def test_a_label_stays_with_its_image(self) -> None:
        for images, labels in epoch(resident(10)):
            torch.testing.assert_close(images[:, 0, 0, 0], labels.float())

    def test_images_are_float32_and_labels_int64(self) -> None:
        images, labels = epoch(resident(10))[0]
        assert (images.dtype, images.shape) == (torch.float32, (4, 1, 2, 2))
        assert (labels.dtype, labels.shape) == (torch.int64, (4,))

    def test_the_last_partial_batch_is_kept(self) -> None:
        batches = epoch(resident(10))
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert len(batches) == steps_per_epoch(10, 4)

    def test_an_epoch_without_a_partial_batch_has_no_empty_one(self) -> None:
        assert [len(labels) for _, labels in epoch(resident(8))] == [4, 4]
        assert steps_per_epoch(8, 4) == 2

    def test_pixels_are_normalised_by_channel(self) -> None:
        images = np.random.RandomState(0).randint(0, 256, (6, 3, 2, 2)).astype(np.uint8)
        mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
        data = ResidentSet.of(Part(images, np.arange(6)), CPU, mean, std)
        for batch, labels in epoch(data):
            expected = (torch.from_numpy(images)[labels] / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
            torch.testing.assert_close(batch, expected)

    def test_what_is_resident_is_not_changed(self) -> None:
        data = resident(10)
        before = data.images.clone()
        epoch(data)
        list(data.evaluation_batches(3))
        assert torch.equal(data.images, before)


class TestAugmentation:
    def test_it_sees_pixels_between_0_and_1(self) -> None:
        seen: list[Tensor] = []
        epoch(resident(256), noting(lambda images: seen.append(images.clone())), chunk_size=256)
        assert (seen[0].min(), seen[0].max()) == (0, 1)

    @pytest.mark.parametrize(("chunk_size", "chunks"), [(10, [8, 8, 3]), (1, [4, 4, 4, 4, 3]), (99, [19])])
    def test_it_is_given_chunks_of_whole_batches(self, chunk_size: int, chunks: list[int]) -> None:
        sizes: list[int] = []
        epoch(resident(19), noting(lambda images: sizes.append(len(images))), chunk_size=chunk_size)
        assert sizes == chunks

    def test_it_is_what_the_batches_are_made_of(self) -> None:
        for images, _ in epoch(resident(10), torch.ones_like):
            torch.testing.assert_close(images, torch.full_like(images, 255))

    def test_its_draws_differ_between_chunks(self) -> None:
        drawn: list[Tensor] = []
        epoch(resident(16), noting(lambda _: drawn.append(torch.rand(3))))
        assert not torch.equal(drawn[0], drawn[1])

    def test_its_draws_differ_between_epochs(self) -> None:
        drawn: list[Tensor] = []
        for number in range(2):
            epoch(resident(4), noting(lambda _: drawn.append(torch.rand(3))), epoch=number)
        assert not torch.equal(drawn[0], drawn[1])

    def test_its_draws_leave_the_callers_undisturbed(self) -> None:
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        batches = resident(20).training_batches(seed=0, epoch=0, batch_size=4, augment=noisy, chunk_size=8)
        drawn = [torch.rand(1) for _ in zip(batches, range(3), strict=False)]
        assert torch.equal(torch.cat(drawn), expected)

    def test_the_callers_draws_leave_its_own_undisturbed(self) -> None:
        data = resident(20)
        expected = epoch(data, noisy)
        torch.manual_seed(7)
        drawing = data.training_batches(seed=0, epoch=0, batch_size=4, augment=noisy, chunk_size=10)
        assert same([(*batch, torch.rand(1))[:2] for batch in drawing], expected)

    def test_a_chunk_is_freed_before_the_next_is_made(self) -> None:
        made: list[weakref.ref[Tensor]] = []
        alive: list[int] = []

        def remember(images: Tensor) -> None:
            alive.append(sum(chunk() is not None for chunk in made))
            made.append(weakref.ref(images))

        batches = resident(40).training_batches(seed=0, epoch=0, batch_size=4, augment=noting(remember), chunk_size=8)
        for batch in batches:  # holds each batch until it has the next, as a training loop does
            assert len(batch) == 2
        assert alive == [0] * 5

    def test_an_epoch_can_be_traced_on_fake_tensors(self) -> None:
        """A memory estimate runs the training step so, without data or device."""
        with FakeTensorMode(allow_non_fake_inputs=True):
            batches = epoch(resident(10), noisy)
        assert [images.shape[0] for images, _ in batches] == [4, 4, 2]


class TestResumption:
    @few
    @given(
        count=st.integers(1, 40),
        batch_size=st.integers(1, 9),
        chunk_size=st.integers(1, 30),
        data=st.data(),
    )
    def test_a_resumed_epoch_yields_the_bits_of_an_uninterrupted_one(
        self, count: int, batch_size: int, chunk_size: int, data: st.DataObject
    ) -> None:
        first_step = data.draw(st.integers(0, steps_per_epoch(count, batch_size)))
        sizes = {"batch_size": batch_size, "chunk_size": chunk_size}
        whole = epoch(resident(count), noisy, **sizes)
        assert same(epoch(resident(count), noisy, first_step=first_step, **sizes), whole[first_step:])


class TestEpochOrder:
    def test_it_is_a_function_of_seed_and_epoch_alone(self) -> None:
        torch.manual_seed(0)
        first = epoch_order(100, seed=3, epoch=5)
        torch.manual_seed(1)
        assert torch.equal(epoch_order(100, seed=3, epoch=5), first)

    def test_making_it_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        epoch_order(100, seed=3, epoch=5)
        assert torch.equal(torch.get_rng_state(), before)

    def test_epochs_and_seeds_have_orders_of_their_own(self) -> None:
        orders = {tuple(epoch_order(100, seed, number).tolist()) for seed in range(3) for number in range(3)}
        assert len(orders) == 9

    def test_it_is_a_permutation(self) -> None:
        assert sorted(epoch_order(100, seed=0, epoch=0).tolist()) == list(range(100))


class TestStreamSeed:
    @few
    @given(
        seed=st.integers(0, 2**64),
        path=st.lists(st.one_of(st.text(max_size=3), st.integers(0, 2**40)), max_size=3),
    )
    def test_it_is_63_bits(self, seed: int, path: list[str | int]) -> None:
        assert 0 <= stream_seed(seed, *path) < 2**63

    def test_paths_that_read_alike_have_seeds_of_their_own(self) -> None:
        assert len({stream_seed(*path) for path in ((1, 2, 3), (12, 3), (1, 23), (1, "2", 3), (1, "2, 3"))}) == 5

    def test_it_is_the_same_for_ever(self) -> None:
        assert stream_seed(42, "order", 0) == 4741138862352400438


class TestSeeded:
    def test_draws_inside_are_those_of_the_seed(self) -> None:
        with seeded(5, CPU):
            drawn = torch.rand(4)
        assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))

    def test_the_generator_is_restored_after_an_error(self) -> None:
        before = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError), seeded(5, CPU):
            raise ZeroDivisionError
        assert torch.equal(torch.get_rng_state(), before)


class TestEvaluationBatches:
    def test_images_come_in_order_with_the_last_partial_batch(self) -> None:
        batches = list(resident(10).evaluation_batches(4))
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        torch.testing.assert_close(batches[2][0][:, 0, 0, 0], torch.tensor([8.0, 9.0]))


class TestPoints:
    def test_both_kinds_of_batches_are_normalised_by_coordinate(self) -> None:
        points = scattered(6)
        mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
        data = ResidentSet.of(points, CPU, mean, std)
        for batch, labels in [*epoch(data), *data.evaluation_batches(4)]:
            torch.testing.assert_close(batch, (torch.from_numpy(points.images)[labels] - mean) / std)

    def test_with_mean_0_and_deviation_1_they_are_what_they_were_to_the_bit(self) -> None:
        points = scattered(6)
        data = ResidentSet.of(points, CPU, torch.zeros(2), torch.ones(2))
        for batch, labels in [*epoch(data), *data.evaluation_batches(4)]:
            assert torch.equal(batch, torch.from_numpy(points.images)[labels])

    @pytest.mark.parametrize("count", [3, 10])
    def test_what_is_resident_is_not_changed(self, count: int) -> None:
        """Whether or not one batch is the whole of it."""
        data = ResidentSet.of(scattered(count), CPU, torch.ones(2), torch.full((2,), 2.0))
        before = data.images.clone()
        epoch(data)
        list(data.evaluation_batches(4))
        assert torch.equal(data.images, before)

    def test_a_resumed_epoch_yields_the_bits_of_an_uninterrupted_one(self) -> None:
        data = ResidentSet.of(scattered(20), CPU, torch.zeros(2), torch.ones(2))
        assert same(epoch(data, first_step=3), epoch(data)[3:])


def test_a_memory_mapped_part_can_be_resident(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", numbered(6).images)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = ResidentSet.of(Part(images, numbered(6).labels), CPU, *AS_STORED)
    assert data.images[:, 0, 0, 0].tolist() == list(range(6))


@pytest.mark.gpu
class TestCuda:
    def test_order_and_pixels_are_those_of_the_cpu(self) -> None:
        on_gpu = ResidentSet.of(numbered(20), torch.device("cuda"), *AS_STORED)
        for (images, labels), (expected, numbers) in zip(epoch(on_gpu), epoch(resident(20)), strict=True):
            assert images.is_cuda
            assert torch.equal(labels.cpu(), numbers)
            torch.testing.assert_close(images.cpu(), expected)

    def test_a_resumed_epoch_yields_the_bits_of_an_uninterrupted_one(self) -> None:
        on_gpu = ResidentSet.of(numbered(20), torch.device("cuda"), *AS_STORED)
        assert same(epoch(on_gpu, noisy, first_step=3), epoch(on_gpu, noisy)[3:])

    def test_draws_leave_the_callers_undisturbed(self) -> None:
        on_gpu = ResidentSet.of(numbered(20), torch.device("cuda"), *AS_STORED)
        before = torch.cuda.get_rng_state()
        epoch(on_gpu, noisy)
        assert torch.equal(torch.cuda.get_rng_state(), before)
