"""What a diagnostic looks at: a job's network with its data, as trained or fresh."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jobs.checkpoint import load_weights
from jobs.data import JobData, build_network, load_data
from jobs.spec import JobSpec


@dataclass(frozen=True)
class Subject:
    """A network in training mode, on the device of its data."""

    title: str
    spec: JobSpec
    data: JobData
    network: nn.Module

    def batch(self) -> tuple[Tensor, Tensor]:
        """The first batch that the job trains on: images (B, C, H, W) or points (B, 2), and labels (B,)."""
        return next(self.data.training_batches(0))


def load_subject(title: str, spec: JobSpec, weights: Path | None, device: torch.device, cache_dir: Path) -> Subject:
    """The job's data and network, with the weights of a checkpoint, or those that its seed draws.

    Raises DataError, ModelError and CheckpointError.
    """
    data = load_data(spec, device, cache_dir)
    network = build_network(data)
    if weights is not None:
        load_weights(weights, network)
    return Subject(title, spec, data, network.train())
