"""The time between checkpoints where planner chooses it: `checkpoint_interval=auto`."""

from __future__ import annotations

from dataclasses import replace

from planner.core.adjust import InForce
from planner.core.daly import MINIMUM_S, checkpoint_interval_s
from planner.core.errors import StoreError
from planner.core.units import format_duration
from planner.services.supervisor.book import RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.progress import Progress

HAZARD_PER_H = 0.01
"""Interruptions of a worker per hour where its price says nothing of them: one in four days."""
_CHANGE = 0.2
"""What a checkpoint takes must change by so much before the interval follows."""


class AutoInterval:
    """Keeps the interval at what cost and hazard make best (Young, Daly)."""

    def __init__(self, book: RunBook, control: ControlFile, progress: Progress) -> None:
        self._book = book
        self._control = control
        self._progress = progress
        self._basis: tuple[float, float, int] | None = None

    def look(self, now: InForce) -> InForce:
        """What is in force, with the interval that suits what checkpoints cost now."""
        stall_s, whole_s = self._progress.checkpoint_stall_s, self._progress.checkpoint_s
        if not now.checkpoint_auto or stall_s is None or whole_s is None:
            return now
        basis = stall_s, whole_s, now.workers
        if not self._changed(basis):
            return now
        hazard = now.price.interruptions_per_h
        interval_s = checkpoint_interval_s(
            stall_s,
            HAZARD_PER_H if hazard is None else hazard,
            workers=now.workers,
            minimum_s=max(MINIMUM_S, whole_s),
        )
        if interval_s == now.knobs.checkpoint_interval_s:
            self._basis = basis
            return now
        try:
            self._control.set_interval(interval_s)
        except StoreError as error:
            self._book.warn("control.failed", f"the control file cannot be written: {error.text}")
            return now
        self._basis = basis
        self._book.decide(
            f"checkpoint every {format_duration(interval_s)}",
            f"a checkpoint stops training for {stall_s:.2f} s and takes {whole_s:.2f} s in all",
            expected="least time lost to checkpoints and interruptions together",
            observation={
                "checkpoint_s": whole_s,
                "stall_s": stall_s,
                "hazard_per_h": hazard,
                "workers": now.workers,
            },
        )
        return replace(now, knobs=replace(now.knobs, checkpoint_interval_s=interval_s))

    def _changed(self, basis: tuple[float, float, int]) -> bool:
        if self._basis is None:
            return True
        pairs = zip(basis, self._basis, strict=True)
        stall, whole, workers = (abs(after - before) > _CHANGE * before for after, before in pairs)
        return stall or whole or workers
