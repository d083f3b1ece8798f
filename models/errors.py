"""What can be wrong with a model that was asked for. Each message is one line a user can act on."""

from __future__ import annotations

from collections.abc import Sequence


class ModelError(Exception):
    """A model cannot be built as it was asked for."""


class UnknownNetworkError(ModelError):
    """No network has this name; `nearest` holds the most similar names, best first."""

    def __init__(self, name: str, nearest: Sequence[str]) -> None:
        super().__init__(f"unknown network {name!r}{did_you_mean(nearest)}")
        self.name = name
        self.nearest = tuple(nearest)


class OptionError(ModelError):
    """An option is unknown, of the wrong type, or has a value the network cannot have."""


def did_you_mean(nearest: Sequence[str]) -> str:
    """The end of a message that names what was probably meant; empty without a suggestion."""
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
