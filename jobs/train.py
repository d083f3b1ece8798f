"""The training loop: steps from one evaluation to the next, metrics, checkpoints, and one test at the end."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from augment.resident import ResidentSet
from jobs import schedule
from jobs.checkpoint import (
    Best,
    Due,
    Position,
    load_weights,
    resume,
    save_checkpoint,
    save_weights,
    stored_bytes,
)
from jobs.data import build_network, load_data
from jobs.diagnostics.gradient_flow import GradientFlow
from jobs.diagnostics.landscape import Landscape, LandscapeSettings
from jobs.diagnostics.survey import evaluation_batch_size, survey
from jobs.errors import DamagedCheckpointError, TrainingError
from jobs.evaluation import evaluate
from jobs.memory import peak_bytes
from jobs.optimizer import build_optimizer, forget_training
from jobs.room import Room, StopRequested
from jobs.run_dir import (
    AttemptFiles,
    FlowLine,
    Metrics,
    Progress,
    Result,
    RunDir,
    append_line,
    drop_lines_after,
    write_record,
)
from jobs.spec import JobSpec
from jobs.step import Totals, steps_to_peak, training_step
from jobs.surplus import Surplus


class TimeUp(Exception):  # noqa: N818 — not an error, as StopRequested is none
    """Training has reached its time limit and has written its checkpoint."""


@dataclass(frozen=True)
class Surroundings:
    """What a training takes from outside: where it runs, where it writes, who may stop it, what time it is.

    `counted_from_s` is the training time from which the job's time limit counts; None: from this attempt's start on.
    `on_progress` is called after each step and each batch of an evaluation. Whatever is written waits for `room`. Of
    `reservation_bytes` it gives back what it turns out not to need; None: it keeps all that it has.
    """

    device: torch.device
    precision: str
    files: RunDir
    attempt: AttemptFiles
    cache_dir: Path
    context_bytes: int
    should_stop: Callable[[], bool]
    room: Room
    clock: Callable[[], float] = time.monotonic
    counted_from_s: float | None = None
    on_progress: Callable[[], None] = lambda: None
    reservation_bytes: int | None = None


class Trainer:
    """One job's training, from its checkpoint if there is one."""

    def __init__(self, spec: JobSpec, around: Surroundings) -> None:
        self.spec = spec
        self.around = around
        self.data = around.room(load_data, spec, around.device, around.cache_dir)
        self.network = build_network(self.data)
        self.optimizer = build_optimizer(spec.optimizer, self.network.parameters())
        self.length = schedule.length(spec.train, self.data.steps_per_epoch)
        self.totals = Totals(around.device)
        self.flow = GradientFlow(self.network) if spec.diagnostics.gradient_flow else None
        self.position = Position()
        self.checkpoint = Due(spec.train.checkpoint_interval, self.data.steps_per_epoch, self._now)
        self.surplus = self._surplus()
        self.started = 0.0  # by the clock, had all attempts been one
        self.time_up_s = math.inf  # of training

    def run(self) -> Result:
        """Train to the end, test once, and return the result.

        Raises StopRequested after a checkpoint, if there is room for it, when asked to stop, TimeUp after one when the
        job's time limit is reached, and TrainingError when the loss is no longer a number.
        """
        self._resume()
        while not self._is_over():
            began, images = self._now(), -self.position.images
            lr = self._train(until=schedule.next_evaluation(self.spec.train, self.length, self.position.step))
            images += self.position.images
            self._evaluated(lr, images, began)
            if self.checkpoint.is_due(self.position.step) or self._is_over():
                self._save_checkpoint()
            self._give_back()
        result = self._test()
        if self.spec.diagnostics.landscape:
            self._survey()
        return result

    def _surplus(self) -> Surplus | None:
        """None where nothing is to be given back: a landscape to come may take more than all before it."""
        spec, around = self.spec, self.around
        if around.reservation_bytes is None or spec.diagnostics.landscape:
            return None
        return Surplus(around.device, around.reservation_bytes, around.context_bytes, self._steps_to_peak())

    def _steps_to_peak(self) -> int:
        data, train = self.spec.data, self.spec.train
        return steps_to_peak(data.chunk_size, train.batch_size, self.around.device, self.length.steps_per_epoch)

    def _resume(self) -> None:
        files, room = self.around.files, self.around.room
        self.position = resume(files, self.spec, self.network, self.optimizer, self._tallies()) or self.position
        room(drop_lines_after, files.metrics, Metrics, self.position.step)
        room(drop_lines_after, files.gradient_flow, FlowLine, self.position.step)
        so_far_s, counted_from_s = self.position.elapsed_s, self.around.counted_from_s
        self.started = self._now() - so_far_s
        if (limit_s := self.spec.limits.time_s) is not None:
            self.time_up_s = limit_s + (so_far_s if counted_from_s is None else counted_from_s)
        self.progress = Progress(
            parameters=self._parameters(),
            resumed_from_step=self.position.step,
            steps=self.length.steps,
            steps_to_peak=self._steps_to_peak(),
            elapsed_s=so_far_s,
        )
        room(write_record, self.around.attempt.progress, self.progress)
        self.around.on_progress()

    def _train(self, until: int) -> float:
        """Train up to step `until`, from epoch to epoch; returns the last learning rate.

        No checkpoint is written at `until` itself: training that resumed there would miss its evaluation.
        """
        lr = 0.0
        self.network.train()
        while self.position.step < until:
            batches = self.data.training_batches(self.position.step)
            for images, labels in islice(batches, until - self.position.step):
                if (ending := self._ending()) is not None:
                    self._save_checkpoint()
                    raise ending
                lr = self._step(images, labels)
                self.around.on_progress()
                if self.position.step < until and self.checkpoint.is_due(self.position.step):
                    self._save_checkpoint()
        return lr

    def _ending(self) -> Exception | None:
        """What is to be raised in place of the next step, if anything."""
        if self.around.should_stop():
            return StopRequested()
        if self.time_up_s < math.inf and self._elapsed_s() >= self.time_up_s:
            return TimeUp(f"its time limit of {self.spec.limits.time} is up (limits.time)")
        return None

    def _step(self, images: Tensor, labels: Tensor) -> float:
        """One optimizer step; returns its learning rate."""
        position = self.position
        lr = schedule.rate(self.spec.schedule, self.spec.optimizer.lr, position.schedule, self.length, position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        training_step(
            self.network,
            self.optimizer,
            images,
            labels,
            self.around.precision,
            self.totals,
            position.step,
            self.flow.add if self.flow is not None else None,
        )
        self.position = replace(position, step=position.step + 1, images=position.images + len(labels))
        return lr

    def _evaluated(self, lr: float, images: int, began: float) -> None:
        """Evaluate, write a line of metrics, and move the position on.

        `images` were trained on by this process since `began`: fewer than the line counts if it has resumed.
        """
        train_loss, train_accuracy = self._read_totals()
        seconds = self._now() - began  # after the reading, which waited for the device
        loss, accuracy = self._evaluate(self.data.validation)
        self._move_on(train_accuracy, loss, accuracy)
        line = Metrics(
            epoch=self._epoch(),
            step=self.position.step,
            lr=lr,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=loss,
            validation_accuracy=accuracy,
            images_per_s=images / max(seconds, 1e-9),
            elapsed_s=self.position.elapsed_s,
            peak_bytes=peak_bytes(self.around.device, self.around.context_bytes),
        )
        if self.flow is not None:
            flow = FlowLine(epoch=line.epoch, step=line.step, mean_absolute=self.flow.read())
            self.around.room(append_line, self.around.files.gradient_flow, flow)
            self.flow.reset()
        self.around.room(append_line, self.around.files.metrics, line)

    def _read_totals(self) -> tuple[float, float]:
        """Training loss and accuracy since the last evaluation. Raises TrainingError if the loss is not a number."""
        loss, accuracy, bad_step = self.totals.read(self.position.images)
        if bad_step is not None:
            raise TrainingError(
                f"the loss was no longer finite at step {bad_step} "
                f"(epoch {bad_step // self.length.steps_per_epoch + 1}); "
                f"a lower optimizer.lr or a longer warmup (schedule.warmup_epochs) may help"
            )
        return loss, accuracy

    def _move_on(self, train_accuracy: float, validation_loss: float, validation_accuracy: float) -> None:
        """The position after an evaluation; the weights are kept when they are the best so far."""
        position = self.position
        state = schedule.after_evaluation(
            self.spec.schedule, self.spec.optimizer.lr, position.schedule, self.length, position.step, validation_loss
        )
        best = position.best
        if validation_accuracy > best.validation_accuracy:
            self._save_weights()
            best = Best(epoch=self._epoch(), step=position.step, validation_accuracy=validation_accuracy)
        best = replace(best, train_accuracy=max(position.best.train_accuracy, train_accuracy))
        self.position = replace(position, schedule=state, images=0, best=best, elapsed_s=self._elapsed_s())
        self.totals.reset()

    def _evaluate(self, part: ResidentSet) -> tuple[float, float]:
        """Mean loss and accuracy over a part, without augmentation.

        Raises TrainingError when the loss is not a number.
        """
        loss, accuracy, bad_step = evaluate(
            self.network, part, self.spec.train.batch_size, self.around.precision, self.around.on_progress
        )
        if bad_step is not None:
            raise TrainingError(f"the loss on images held out is not finite after {self.position.step} steps")
        return loss, accuracy

    def _give_back(self) -> None:
        """Say what is left of the reservation once it is lowered, and not before: others are given the rest."""
        if self.surplus is None:
            return
        left = self.surplus.give_back(self.position.step - self.progress.resumed_from_step, self._to_come_bytes())
        if left is not None:
            self.progress = replace(self.progress, reservation_bytes=left)
            self.around.room(write_record, self.around.attempt.progress, self.progress)

    def _to_come_bytes(self) -> int:
        """By how much the best weights, once they are read, exceed the gradients let go before; on a GPU, nothing."""
        if self.around.device.type != "cpu":
            return 0
        gradients = (one.grad.nbytes for one in self.network.parameters() if one.grad is not None)
        return max(0, stored_bytes(self.network) - sum(gradients))

    def _test(self) -> Result:
        """Measure the weights that did best on validation on the test part."""
        self.optimizer.zero_grad(set_to_none=True)  # what is loaded takes as much as the gradients did
        self._load_best()
        loss, accuracy = self._evaluate(self.data.test)
        best = self.position.best
        return Result(
            epochs=self._epoch(),
            steps=self.position.step,
            best_epoch=best.epoch,
            best_step=best.step,
            best_train_accuracy=best.train_accuracy,
            best_validation_accuracy=best.validation_accuracy,
            test_loss=loss,
            test_accuracy=accuracy,
            parameters=self._parameters(),
            stopped_early=self.position.step < self.length.steps,
        )

    def _load_best(self) -> None:
        """Go back to the weights that did best. If their file is damaged, the last ones take their place, said so."""
        try:
            load_weights(self.around.files.best_checkpoint, self.network)
        except DamagedCheckpointError as error:
            print(f"{error}; the last weights, of step {self.position.step}, are kept as the best", flush=True)
            _, accuracy = self._evaluate(self.data.validation)
            lasting = replace(
                self.position.best, epoch=self._epoch(), step=self.position.step, validation_accuracy=accuracy
            )
            self.position = replace(self.position, best=lasting)
            self._save_checkpoint()  # first, so that nothing takes these weights for what the others were
            self._save_weights()

    def _survey(self) -> None:
        """The loss around the weights that were tested, saved row by row, between which it may stop as training may."""
        device, wanted = self.around.device, self.spec.diagnostics
        forget_training(self.optimizer)
        survey(
            self.around.files.landscape,
            self.network,
            self.data.test,
            LandscapeSettings(grid=wanted.landscape_grid),
            images=wanted.landscape_images,
            batch_size=evaluation_batch_size(self.spec.train.batch_size, device),
            precision=self.around.precision,
            on_row=self._between_rows,
            on_batch=self.around.on_progress,
            save=lambda path, landscape: self.around.room(write_record, path, landscape),
        )

    def _between_rows(self, landscape: Landscape) -> None:
        if not landscape.complete and (ending := self._ending()) is not None:
            raise ending

    def _is_over(self) -> bool:
        position = self.position
        return schedule.is_over(
            self.spec.schedule, self.spec.optimizer.lr, position.schedule, self.length, position.step
        )

    def _save_checkpoint(self) -> None:
        """Never of weights that a loss which is no number has spoilt: the last good checkpoint is kept."""
        if self.position.images:
            self._read_totals()
        self.position = replace(self.position, elapsed_s=self._elapsed_s())
        files = self.around.files
        self.around.room(
            save_checkpoint,
            files.last_checkpoint,
            self.spec,
            self.network,
            self.optimizer,
            self._tallies(),
            self.position,
            previous=files.previous_checkpoint,
        )
        self.checkpoint.done(self.position.step)

    def _save_weights(self) -> None:
        self.around.room(save_weights, self.around.files.best_checkpoint, self.spec, self.network)

    def _tallies(self) -> dict[str, Tensor]:
        """What is summed up between evaluations."""
        flow = {} if self.flow is None else {"gradient flow": self.flow.values}
        return {"totals": self.totals.values, **flow}

    def _epoch(self) -> int:
        """From 1: the epoch that the last step belongs to."""
        return -(-self.position.step // self.length.steps_per_epoch)

    def _now(self) -> float:
        """The clock, which stands still while there is no room."""
        return self.around.clock() - self.around.room.waited_s

    def _elapsed_s(self) -> float:
        return self._now() - self.started

    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())
