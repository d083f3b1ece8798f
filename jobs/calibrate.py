"""What a GPU's memory holds of a process besides its tensors: `python -P -m jobs.calibrate DEVICE [PRECISION]`.

The process says what torch sees. With a precision it then trains for a few steps, so that the context is that of a
training (CUDA loads a kernel when it is first used; CUDA C++ Programming Guide, "Lazy Loading"). It says what of its
memory is the caching allocator's, and holds it until its standard input ends: whoever started it reads the device
meanwhile. A message is a JSON line. Not for the CPU: the constants there are fitted (`jobs.estimator`).
"""

import os
import sys
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from jobs.errors import GpuqError, in_words
from jobs.spec import Sgd

if TYPE_CHECKING:
    import torch

MiB = 1 << 20

MOST_BYTES = 512 * MiB  # of the device, besides the context, so that nobody who runs there is disturbed
_IMAGES, _BATCH_SIZE = 256, 64  # some 100 MiB


class Seen(Struct, frozen=True, kw_only=True, tag=True):
    """The device, as torch sees it."""

    name: str
    torch: str
    cudnn: str | None


class Held(Struct, frozen=True, kw_only=True, tag=True):
    """What the process holds on the device after a training."""

    reserved_bytes: int  # by the caching allocator
    workspace_bytes: int  # the part of it that is allocated, although all tensors are gone


class Trouble(Struct, frozen=True, kw_only=True, tag=True):
    """Why no more can be said, in one line."""

    reason: str


Message = Seen | Held | Trouble


def main(name: str, precision: str | None = None) -> None:
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print; nothing may come between the messages

    def say(message: Message) -> None:
        said.write(msgspec.json.encode(message) + b"\n")
        said.flush()

    try:
        import torch

        device = torch.device(name)
        say(see(device))
        if precision is not None:
            say(hold(device, precision))
            sys.stdin.buffer.read()
    except Exception as error:
        say(Trouble(reason=in_words(error)))


def see(device: "torch.device") -> Seen:
    """Raises GpuqError if torch does not see the device."""
    import torch

    if device.type == "cpu":
        return Seen(name="the CPU", torch=str(torch.__version__), cudnn=None)
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise GpuqError(f"torch {torch.__version__}, which {built}, sees no GPU")
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    name = torch.cuda.get_device_name(device)
    return Seen(name=name, torch=str(torch.__version__), cudnn=None if cudnn is None else str(cudnn))


def hold(device: "torch.device", precision: str) -> Held:
    """Train a little on a GPU and let go of every tensor.

    What stays allocated then is what libraries were given, and keep: cuBLAS's workspaces, one for each of the threads
    that go forward and backward (torch's notes on CUDA semantics, "cuBLAS workspaces").
    """
    import gc

    import torch

    cap = MOST_BYTES / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap), device)
    train_a_little(device, precision)
    gc.collect()  # tensors in cycles go, too
    torch.cuda.synchronize(device)
    return Held(
        reserved_bytes=torch.cuda.memory_reserved(device),
        workspace_bytes=torch.cuda.memory_allocated(device),
    )


def train_a_little(device: "torch.device", precision: str) -> None:
    """Two steps and an evaluation of a small residual network on random augmented images, as a worker does them."""
    import torch

    import models.registry
    from augment.policies import policy
    from augment.resident import ResidentSet
    from jobs.optimizer import build_optimizer
    from jobs.step import Totals, evaluation_step, training_step

    images = torch.randint(256, (_IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (_IMAGES,))
    mean, std = torch.full((3,), 0.5, device=device), torch.ones(3, device=device)
    data = ResidentSet(images.to(device), labels.to(device), mean, std)
    network = models.registry.build("resv1", {"blocks": [1, 1, 1, 1]}, input_shape=(3, 32, 32), classes=10)
    network.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(Sgd(), network.parameters())
    totals = Totals(device)
    batches = data.training_batches(
        seed=0, epoch=0, batch_size=_BATCH_SIZE, augment=policy("easy", 32), chunk_size=2 * _BATCH_SIZE
    )
    for step, (batch, classes) in zip(range(2), batches, strict=False):
        training_step(network, optimizer, batch, classes, precision, totals, step)
    network.eval()
    evaluation_step(network, *next(data.evaluation_batches(_BATCH_SIZE)), precision, totals)


if __name__ == "__main__":
    main(*sys.argv[1:])
