"""The wall clock, for people. Durations come from `time.monotonic`."""

import time
from datetime import UTC, datetime


def utc_now() -> str:
    """Now as the store writes it: `2026-11-21T22:00:00Z`."""
    return as_utc(time.time())


def as_utc(timestamp: float) -> str:
    """Seconds since the epoch as the store writes them, so that text sorts like time."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
