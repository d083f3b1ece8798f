"""The training loop: epochs of resident batches, metrics, checkpoints, and one test at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import nn

import models.registry
from augment.datasets import DataRequest, Parts, load
from augment.policies import policy
from augment.resident import ResidentSet, channel_statistics, steps_per_epoch
from jobs import schedule
from jobs.checkpoint import Position, load_checkpoint, load_weights, save_checkpoint, save_weights
from jobs.errors import TrainingError
from jobs.memory import peak_bytes
from jobs.optimizer import build_optimizer
from jobs.run_dir import (
    AttemptFiles,
    Metrics,
    Progress,
    Result,
    RunDir,
    append_metrics,
    drop_metrics_after,
    write_record,
)
from jobs.spec import JobSpec
from jobs.step import (
    Totals,
    chosen_chunk_size,
    evaluation_step,
    training_step,
)


class StopRequested(Exception):  # noqa: N818 — not an error: the wish to stop, met after a checkpoint
    """Training was asked to stop and has written its checkpoint."""


@dataclass(frozen=True)
class Surroundings:
    """What a training takes from outside: where it runs, where it writes, who may stop it, what time it is."""

    device: torch.device
    precision: str
    files: RunDir
    attempt: AttemptFiles
    cache_dir: Path
    context_bytes: int
    should_stop: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic


def data_request(spec: JobSpec) -> DataRequest:
    """What the job's [data] asks for, in the words of the data room."""
    data = spec.data
    return DataRequest(data.name, spec.root, data.split, data.limit, data.image_size)


def build_network(spec: JobSpec, parts: Parts, device: torch.device) -> nn.Module:
    """The job's network with weights drawn from its seed, on the device. Raises ModelError."""
    torch.manual_seed(spec.train.seed)
    network: nn.Module = models.registry.build(
        spec.model.name, spec.model.options, input_shape=parts.input_shape, classes=len(parts.classes)
    )
    # Channels-last: cuDNN's and oneDNN's convolutions are faster on it.
    return network.to(device).to(memory_format=torch.channels_last)


class Trainer:
    """One job's training, from its checkpoint if there is one."""

    def __init__(self, spec: JobSpec, around: Surroundings) -> None:
        self.spec = spec
        self.around = around
        parts = load(data_request(spec), around.cache_dir)
        mean, std = channel_statistics(parts.train.images)
        self.train_set, self.validation_set = (
            ResidentSet.of(part, around.device, mean, std) for part in (parts.train, parts.validation)
        )
        one = parts.test is parts.validation  # the official split's
        self.test_set = self.validation_set if one else ResidentSet.of(parts.test, around.device, mean, std)
        self.augment = policy(spec.data.augment, parts.input_shape[-1])
        self.network = build_network(spec, parts, around.device)
        self.optimizer = build_optimizer(spec.optimizer, self.network.parameters())
        self.steps_per_epoch = steps_per_epoch(len(self.train_set), spec.train.batch_size)
        self.totals = Totals(around.device)
        self.position = Position()

    def run(self) -> Result:
        """Train to the end, test once, and return the result.

        Raises StopRequested after a checkpoint when asked to stop, and TrainingError when the loss is no longer
        a number.
        """
        self._resume()
        started = self.around.clock() - self.position.elapsed_s
        last_checkpoint = self.around.clock()
        while not self._is_over():
            metrics = self._epoch(started)
            append_metrics(self.around.files.metrics, metrics)
            due = self.around.clock() - last_checkpoint >= self.spec.train.checkpoint_every_s
            if due or self._is_over():
                self._save_checkpoint()
                last_checkpoint = self.around.clock()
        return self._test()

    def _resume(self) -> None:
        files = self.around.files
        if files.last_checkpoint.exists():
            self.position = load_checkpoint(
                files.last_checkpoint, self.spec, self.network, self.optimizer, self.totals.values
            )
        drop_metrics_after(files.metrics, self.position.schedule.epoch)
        write_record(
            self.around.attempt.progress,
            Progress(parameters=self._parameters(), resumed_from_step=self.position.step),
        )

    def _epoch(self, started: float) -> Metrics:
        """Train one epoch, or what is left of it, validate, and move the position on."""
        began, first_step = self.around.clock(), self.position.step_in_epoch
        lr = self._train_epoch(started)
        train_loss, train_accuracy, bad_step = self.totals.read(len(self.train_set))
        seconds = self.around.clock() - began  # after the reading, which waited for the device
        images = len(self.train_set) - first_step * self.spec.train.batch_size
        if bad_step is not None:
            raise TrainingError(
                f"the loss was no longer finite at step {bad_step} (epoch {self.position.schedule.epoch + 1}); "
                f"a lower optimizer.lr or a longer schedule.warmup_epochs may help"
            )
        validation_loss, validation_accuracy = self._evaluate(self.validation_set)
        self._move_on(train_accuracy, validation_loss, validation_accuracy)
        self.position = replace(self.position, elapsed_s=self.around.clock() - started)
        return Metrics(
            epoch=self.position.schedule.epoch,
            step=self.position.step,
            lr=lr,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            images_per_s=images / max(seconds, 1e-9),
            elapsed_s=self.position.elapsed_s,
            peak_bytes=peak_bytes(self.around.device, self.around.context_bytes),
        )

    def _train_epoch(self, started: float) -> float:
        """Train the steps that the epoch still has; returns its last learning rate."""
        train, lr = self.spec.train, 0.0
        self.network.train()
        if self.position.step_in_epoch == 0:
            self.totals.reset()
        batches = self.train_set.training_batches(
            seed=train.seed,
            epoch=self.position.schedule.epoch,
            batch_size=train.batch_size,
            augment=self.augment,
            chunk_size=chosen_chunk_size(self.spec.data.chunk_size, self.around.device),
            first_step=self.position.step_in_epoch,
        )
        for images, labels in batches:
            if self.around.should_stop():
                self.position = replace(self.position, elapsed_s=self.around.clock() - started)
                self._save_checkpoint()
                raise StopRequested
            lr = self._set_rate()
            step = self.position.step
            training_step(self.network, self.optimizer, images, labels, self.around.precision, self.totals, step)
            self.position = replace(self.position, step=step + 1, step_in_epoch=self.position.step_in_epoch + 1)
        return lr

    def _set_rate(self) -> float:
        lr = schedule.rate(
            self.spec.schedule,
            self.spec.optimizer.lr,
            self.position.schedule,
            epochs=self.spec.train.epochs,
            step=self.position.step_in_epoch,
            steps_per_epoch=self.steps_per_epoch,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _move_on(self, train_accuracy: float, validation_loss: float, validation_accuracy: float) -> None:
        """The position after an epoch; the weights are kept when they are the best so far."""
        state = schedule.after_epoch(
            self.spec.schedule, self.spec.optimizer.lr, self.position.schedule, validation_loss
        )
        best = self.position.best
        if validation_accuracy > best.validation_accuracy:
            save_weights(self.around.files.best_checkpoint, self.spec, self.network)
            best = replace(best, epoch=state.epoch, validation_accuracy=validation_accuracy)
        best = replace(best, train_accuracy=max(best.train_accuracy, train_accuracy))
        self.position = replace(self.position, schedule=state, step_in_epoch=0, best=best)

    def _evaluate(self, part: ResidentSet) -> tuple[float, float]:
        """Mean loss and accuracy over a part, without augmentation.

        Raises TrainingError when the loss is not a number.
        """
        totals = Totals(self.around.device)
        with evaluating(self.network):
            for images, labels in part.evaluation_batches(self.spec.train.batch_size):
                evaluation_step(self.network, images, labels, self.around.precision, totals)
        loss, accuracy, bad_step = totals.read(len(part))
        if bad_step is not None:
            raise TrainingError(f"the loss on images held out is not finite after {self.position.step} steps")
        return loss, accuracy

    def _test(self) -> Result:
        """Measure the weights that did best on validation on the test part."""
        load_weights(self.around.files.best_checkpoint, self.network)
        loss, accuracy = self._evaluate(self.test_set)
        best = self.position.best
        return Result(
            epochs=self.position.schedule.epoch,
            best_epoch=best.epoch,
            best_train_accuracy=best.train_accuracy,
            best_validation_accuracy=best.validation_accuracy,
            test_loss=loss,
            test_accuracy=accuracy,
            parameters=self._parameters(),
            stopped_early=self.position.schedule.epoch < self.spec.train.epochs,
        )

    def _is_over(self) -> bool:
        return schedule.is_over(
            self.spec.schedule, self.spec.optimizer.lr, self.position.schedule, self.spec.train.epochs
        )

    def _save_checkpoint(self) -> None:
        path = self.around.files.last_checkpoint
        save_checkpoint(path, self.spec, self.network, self.optimizer, self.totals.values, self.position)

    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`network.eval()` for a while."""
    network.eval()
    try:
        yield
    finally:
        network.train()
