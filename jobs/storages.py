"""The bytes of all storages that operations bring to life, until they die."""

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jobs.allocator import Event


class Storages:
    """Counts the storages it is shown, once each.

    `events` tells each birth and death, in order, as `jobs.allocator.replay` takes them.
    """

    def __init__(self) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self.events: list[Event] = []
        # A storage has one Python object for all its life, so its id tells it from all others that live.
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def track(self, tree: Any) -> None:
        """Count the tensors in `tree`."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self.count(leaf)

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        identity, size = id(storage), storage.nbytes()
        if not size or identity in self._alive:
            return
        key = len(self.events)
        self._alive[identity] = weakref.ref(storage, partial(self._forget, identity, key, size))
        self.events.append((key, size))
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, identity: int, key: int, size: int, _: object) -> None:
        del self._alive[identity]
        self.events.append((key, -size))
        self.live_bytes -= size

    def peak_since(self) -> int:
        """The peak since the last call, which starts a new one."""
        peak, self.peak_bytes = self.peak_bytes, self.live_bytes
        return peak


class StorageTrace(Storages, TorchDispatchMode):
    """Counts the storages of what operations under it return, of real tensors as of fake ones."""

    def __init__(self) -> None:
        Storages.__init__(self)
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.track(result)
        return result
