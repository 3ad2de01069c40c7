"""The learning rate when the global batch changes: scaled, and still scheduled by samples."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from planner.sdk.order import step_bounds

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Keys of a parameter group that hold learning rates; the last two are OneCycleLR's."""


class Ticks:
    """How often the scheduler is stepped: once for each step that there would have been.

    Args:
        samples: Of an epoch.
        batch: The global batch that the script's schedule was made for.
        drop_last: Whether a last, shorter step is left out.
    """

    def __init__(self, samples: int, batch: int, *, drop_last: bool) -> None:
        bounds = step_bounds(samples, batch, 1, drop_last=drop_last)
        self._stops = [stop for _, stop in bounds]

    @property
    def count(self) -> int:
        """Ticks of an epoch."""
        return len(self._stops)

    def between(self, start: int, stop: int, *, last: bool) -> int:
        """Ticks of the step over positions [start, stop); the epoch's last one takes the rest."""
        done = bisect_right(self._stops, start)
        return (len(self._stops) if last else bisect_right(self._stops, stop)) - done


def scale_learning_rate(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiply every learning rate that optimiser and scheduler hold."""
    for group in optimizer.param_groups:
        for name in _RATES:
            if isinstance(group.get(name), (int, float)) or hasattr(group.get(name), "mul_"):
                group[name] = group[name] * factor
    if scheduler is not None:
        _scale_schedule(scheduler, factor)


def _scale_schedule(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "_last_lr", "min_lrs"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list):
            setattr(scheduler, name, [rate * factor for rate in rates])
    if isinstance(getattr(scheduler, "eta_min", None), (int, float)):
        scheduler.eta_min *= factor
    for inner in getattr(scheduler, "_schedulers", None) or ():
        _scale_schedule(inner, factor)
