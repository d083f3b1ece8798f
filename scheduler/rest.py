"""Time to recover for a device, or a machine, that has failed jobs though it can be read."""

import math
import time

from jobs.units import format_duration

FIRST_S = 60.0  # a driver is reloaded in less
LONGEST_S = 3600.0  # each time costs a job one of its tries; so those of all of them last the night


class Rest:
    """Nothing starts for a minute; for twice as long if the first jobs after that fail likewise, and so on."""

    def __init__(self) -> None:
        self._until = -math.inf  # on the monotonic clock
        self._length_s = FIRST_S
        self._why = ""

    def begin(self, why: str) -> None:
        """Of all that were alive when it failed, the first to end begins it."""
        if self.reason() is None:
            self._why = f"{why}; nothing starts for {format_duration(self._length_s)}"
            self._until = time.monotonic() + self._length_s
            self._length_s = min(2 * self._length_s, LONGEST_S)

    def recovered(self) -> None:
        """The next one is short again."""
        self._length_s = FIRST_S

    def reason(self) -> str | None:
        """Why nothing starts now; None when it may."""
        return self._why if time.monotonic() < self._until else None
