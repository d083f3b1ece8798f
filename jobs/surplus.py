"""What a worker's reservation leaves above its peak: given back once the peak has settled, so that more may start."""

import torch

from jobs.memory import cap_memory, own_context_bytes, peak_bytes

MiB = 1 << 20

# A peak that has risen by no more than this from one evaluation to the next has settled, and as much is left to it for
# what is still to come. On the CPU that was 1.6 % at most (docs/memory-model.md, "What a job gives back"). On a GPU it
# is fragmentation, and the caching allocator frees what it can before it fails.
GROWTH = {"cpu": 0.05, "cuda": 0.02}


class Surplus:
    """A reservation that is lowered to its worker's peak and a little more, once: after that the peak can only rise."""

    def __init__(self, device: torch.device, reservation_bytes: int, context_bytes: int, steps_to_peak: int) -> None:
        """What is held before `steps_to_peak` steps says nothing yet: see `jobs.step.steps_to_peak`."""
        self._device, self._context_bytes = device, context_bytes
        self._reservation_bytes = reservation_bytes
        self._steps_to_peak = steps_to_peak
        self._peak_bytes = 0

    def give_back(self, steps: int, to_come_bytes: int = 0) -> int | None:
        """To be asked after each evaluation, `steps` after the process began to train; `to_come_bytes` are what it may
        need beyond its peak so far.

        The bytes left of the reservation, whole MiB, if it was lowered just now; the process is held to them already.
        """
        growth = 1 + GROWTH[self._device.type]
        peak = peak_bytes(self._device, self._context_bytes)
        has_settled = steps >= self._steps_to_peak and peak <= self._peak_bytes * growth
        self._peak_bytes = peak
        left = -(-int(max(peak * growth, peak + to_come_bytes)) // MiB) * MiB
        if not has_settled or left >= self._reservation_bytes:
            return None
        cap_memory(self._device, left, own_context_bytes(self._device) or self._context_bytes)
        self._reservation_bytes = left
        return left
