"""CIFAR-10 and CIFAR-100, read and downloaded by torchvision."""

import io
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from augment.errors import MissingDataError
from augment.sources import DECODER_VERSION, Source, save_classes, save_part

NETWORK_ERRORS = (OSError, HTTPException)
CONNECT_S = 10.0
STALL_S = 30.0


def cifar_source(name: str, root: Path) -> Source:
    """`name` is cifar10 or cifar100; `root` is where torchvision looks for it, and downloads it to.

    torchvision checks the files against their published MD5 sums, so the name alone says what was read.
    """

    def build(folder: Path) -> None:
        train, test = _readers(name, root)
        for part, reader in (("train", train), ("test", test)):
            images = reader.data.transpose(0, 3, 1, 2)
            save_part(folder, part, np.ascontiguousarray(images), np.asarray(reader.targets, dtype=np.int64))
        save_classes(folder, train.classes)

    return Source(name, f"{DECODER_VERSION}", build)


def _readers(name: str, root: Path) -> tuple[Any, Any]:
    """torchvision's readers of the training and test parts. MissingDataError if the files cannot be had."""
    from torchvision import datasets  # costs seconds, and is not needed once the arrays are cached

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        return kind(root, train=True), kind(root, train=False)
    except RuntimeError:
        pass  # absent or incomplete
    try:
        if not (root / kind.filename).is_file():
            _require_reachable(kind.url)
        with _stalled_connections_end(), _quiet():
            return kind(root, train=True, download=True), kind(root, train=False)
    except (*NETWORK_ERRORS, RuntimeError) as error:
        raise MissingDataError(
            f"{root / kind.base_folder}: {name} is not there and cannot be downloaded ({error}); "
            f"unpack {kind.url} into {root}"
        ) from error


def _require_reachable(url: str) -> None:
    """Raise one of NETWORK_ERRORS unless `url` answers soon, whatever time a resolver takes to give up."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_S):
                answers.append(None)
        except NETWORK_ERRORS as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    failure = answers[0] if answers else TimeoutError(f"no answer in {CONNECT_S:g} s")
    if failure is not None:
        raise failure


@contextmanager
def _stalled_connections_end() -> Iterator[None]:
    """torchvision's downloads have no timeout of their own: let a connection gone silent fail."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars in a log, nor on a stdout that is to be JSON."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
