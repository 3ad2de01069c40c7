"""Series of bounded length, for what is measured all through a run."""

from __future__ import annotations

from collections.abc import Iterable

SERIES_CAP = 512
"""Most points kept of one series; twice as many are merged pair by pair."""


class SeriesBuffer:
    """A series of bounded length: once full, neighbouring points become their mean."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.values: list[float] = []
        self._stride = 1
        self._pending: list[tuple[float, float]] = []

    def add(self, at_s: float, value: float) -> None:
        """Add one point; `at_s` counts from the run's start."""
        self._pending.append((at_s, value))
        if len(self._pending) < self._stride:
            return
        self.at_s.append(sum(at for at, _ in self._pending) / len(self._pending))
        self.values.append(sum(value for _, value in self._pending) / len(self._pending))
        self._pending.clear()
        if len(self.values) >= 2 * SERIES_CAP:
            self.at_s = [(a + b) / 2 for a, b in _pairs(self.at_s)]
            self.values = [(a + b) / 2 for a, b in _pairs(self.values)]
            self._stride *= 2


def _pairs(values: list[float]) -> Iterable[tuple[float, float]]:
    return zip(values[::2], values[1::2], strict=False)
