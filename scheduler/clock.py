"""The wall clock, for people. Durations come from `time.monotonic`."""

from datetime import UTC, datetime


def utc_now() -> str:
    """Now as the store writes it: `2026-11-21T22:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
