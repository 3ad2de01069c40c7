"""The time between checkpoints where planner chooses it: `checkpoint_interval=auto`."""

from __future__ import annotations

from dataclasses import replace

from planner.core.adjust import InForce
from planner.core.daly import checkpoint_interval_s
from planner.core.errors import StoreError
from planner.core.units import format_duration
from planner.services.supervisor.book import RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.progress import Progress

HAZARD_PER_H = 0.01
"""Interruptions of a worker per hour where its price says nothing of them: one in four days."""
_CHANGE = 0.2
"""The cost of a checkpoint must change by so much before the interval follows."""


class AutoInterval:
    """Keeps the interval at what cost and hazard make best (Young, Daly)."""

    def __init__(self, book: RunBook, control: ControlFile, progress: Progress) -> None:
        self._book = book
        self._control = control
        self._progress = progress
        self._basis: tuple[float, int] | None = None

    def look(self, now: InForce) -> InForce:
        """What is in force, with the interval that suits what checkpoints cost now."""
        cost_s = self._progress.checkpoint_s
        if not now.checkpoint_auto or not cost_s or not self._changed(cost_s, now.workers):
            return now
        hazard = now.price.interruptions_per_h
        interval_s = checkpoint_interval_s(
            cost_s, HAZARD_PER_H if hazard is None else hazard, workers=now.workers
        )
        try:
            self._control.set_interval(interval_s)
        except StoreError as error:
            self._book.warn("control.failed", f"the control file cannot be written: {error.text}")
            return now
        self._basis = cost_s, now.workers
        self._book.decide(
            f"checkpoint every {format_duration(interval_s)}",
            f"a checkpoint takes {cost_s:.2f} s",
            expected="least time lost to checkpoints and interruptions together",
            observation={"checkpoint_s": cost_s, "hazard_per_h": hazard, "workers": now.workers},
        )
        return replace(now, knobs=replace(now.knobs, checkpoint_interval_s=interval_s))

    def _changed(self, cost_s: float, workers: int) -> bool:
        if self._basis is None:
            return True
        before_s, of = self._basis
        return of != workers or abs(cost_s / before_s - 1) > _CHANGE
