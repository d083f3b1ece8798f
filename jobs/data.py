"""A job's data on its device, and its network made for it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import models.registry
from augment.datasets import DataRequest, load
from augment.errors import NoRoomForDataError
from augment.policies import policy
from augment.resident import Batches, ResidentSet, steps_per_epoch
from augment.scaling import scaling
from jobs.room import NoRoomError
from jobs.spec import JobSpec
from jobs.step import chosen_chunk_size


@dataclass(frozen=True)
class JobData:
    """The three parts on the device. The official split's test part is its validation part, and there once."""

    spec: JobSpec
    train: ResidentSet
    validation: ResidentSet
    test: ResidentSet
    input_shape: tuple[int, ...]  # of one image (C, H, W), or point (2,)
    classes: int

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.train), self.spec.train.batch_size)

    def training_batches(self, step: int) -> Batches:
        """What is left of the epoch that `step` is in, augmented as the job's data are."""
        epoch, first_step = divmod(step, self.steps_per_epoch)
        device = self.train.images.device
        return self.train.training_batches(
            seed=self.spec.train.seed,
            epoch=epoch,
            batch_size=self.spec.train.batch_size,
            augment=policy(self.spec.data.augment, self.input_shape[-1]),
            chunk_size=chosen_chunk_size(self.spec.data.chunk_size, device),
            first_step=first_step,
        )


def data_request(spec: JobSpec) -> DataRequest:
    """What the job's [data] asks for, in the words of the data room."""
    data = spec.data
    return DataRequest(data.name, spec.root, data.split, data.limit, data.image_size)


def load_data(spec: JobSpec, device: torch.device, cache_dir: Path) -> JobData:
    """Decode the data, or map what an earlier job left in `cache_dir`, and bring it to the device.

    Raises NoRoomError if there is none in `cache_dir`, else DataError.
    """
    try:
        parts = load(data_request(spec), cache_dir)
    except NoRoomForDataError as error:
        raise NoRoomError(error.folder, error.needed_bytes) from error
    wanted = spec.data
    mean, std = scaling(parts.train.images, pixel_range=wanted.pixel_range, mean=wanted.mean, std=wanted.std)
    train, validation = (ResidentSet.of(part, device, mean, std) for part in (parts.train, parts.validation))
    shared = parts.test is parts.validation
    test = validation if shared else ResidentSet.of(parts.test, device, mean, std)
    return JobData(spec, train, validation, test, parts.input_shape, len(parts.classes))


def build_network(data: JobData) -> nn.Module:
    """The job's network with weights drawn from its seed, on the device of its data. Raises ModelError."""
    spec = data.spec
    torch.manual_seed(spec.train.seed)
    network: nn.Module = models.registry.build(
        spec.model.name, spec.model.options, input_shape=data.input_shape, classes=data.classes
    )
    # Channels-last: cuDNN's and oneDNN's convolutions are faster on it.
    return network.to(data.train.images.device).to(memory_format=torch.channels_last)
