"""Time as a value that is passed in, so that a six-hour run replays in a second."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What time it is, and how to wait."""

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""

    def sleep(self, duration_s: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        time.sleep(duration_s)


class ManualClock:
    """A clock that stands still until it is told otherwise: sleeping moves it, and takes no time.

    Args:
        start: What time it is at first; aware.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._passed_s = 0.0

    def now(self) -> datetime:
        """The time that was reached."""
        return self._start + timedelta(seconds=self._passed_s)

    def monotonic_s(self) -> float:
        """Seconds passed since the start."""
        return self._passed_s

    def sleep(self, duration_s: float) -> None:
        """Move on."""
        self._passed_s += max(0.0, duration_s)
