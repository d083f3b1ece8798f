"""Whether a worker hangs: for how long it has shown no progress, and how long it may, by its own pace. Pure."""

STARTING_FACTOR = 6  # loading data, building the network, and the first step, in which libraries tune themselves
PACE_FACTOR = 10  # a machine under load is slower, not ten times slower than at its slowest so far
BLINK_S = 1.0  # more than that between two looks is time in which the watching process did not run either


class Pulse:
    """What is known of a worker's progress.

    It may show none for `hang_s`, or for ten times the longest pause it has made so far if that is longer. While it
    loads, and again until its first step is done, it may take six times `hang_s`.
    """

    def __init__(self, hang_s: float, now_s: float) -> None:
        self._hang_s = hang_s
        self._looked_at_s = now_s
        self._beat: int | None = None
        self._longest_s: float | None = None  # from one beat to the next
        self._silent_s = 0.0

    def observe(self, beat: int | None, now_s: float) -> None:
        """Take in the latest beat: any number that is another one after each sign of progress, None before the first.

        `now_s` is of a clock that never goes back.
        """
        self._silent_s += min(now_s - self._looked_at_s, BLINK_S)
        self._looked_at_s = now_s
        if beat is None or beat == self._beat:
            return
        if self._beat is not None:
            self._longest_s = max(self._longest_s or 0.0, self._silent_s)
        self._beat, self._silent_s = beat, 0.0

    @property
    def hung_s(self) -> float | None:
        """How long there has been no progress, if that is too long."""
        return self._silent_s if self._silent_s > self._allowed_s else None

    @property
    def _allowed_s(self) -> float:
        if self._longest_s is None:
            return STARTING_FACTOR * self._hang_s
        return max(self._hang_s, PACE_FACTOR * self._longest_s)
