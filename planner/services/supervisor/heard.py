"""What the workers of an attempt say: all event files of all its units, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from planner.store.files import NdjsonTail
from planner.store.layout import AttemptDir

_OF_THE_RUN = frozenset(
    ("steps", "metric", "epoch", "checkpoint", "checkpoint_failed", "adjusted", "adjust_refused")
)
"""Events that only the worker that leads says, whoever that is."""


class Said(NamedTuple):
    """One event: who said it, what, and whether it speaks for the run and not for itself."""

    worker: int
    event: dict[str, Any]
    leads: bool


class Heard:
    """Follows one attempt. Units and workers that join later are found by their files.

    Args:
        folder: The attempt's.
    """

    def __init__(self, folder: AttemptDir) -> None:
        self._folder = folder
        self._tails: dict[int, NdjsonTail] = {}
        self._last_t: dict[int, float] = {}
        self.leader = 0

    def new(self) -> list[Said]:
        """What was said since the last call, oldest first. Raises `StoreError`.

        Every file is in order in itself; between files the time that each event carries decides.
        """
        for unit in self._folder.units().values():
            for worker in unit.speaking():
                self._tails.setdefault(worker, NdjsonTail(unit.events(worker)))
        found: list[tuple[float, int, dict[str, Any]]] = []
        for worker, tail in self._tails.items():
            for event in tail.read_new():
                found.append((self._time(worker, event), worker, event))
        found.sort(key=lambda one: one[0])
        return [Said(worker, event, self._leads(worker, event)) for _, worker, event in found]

    @property
    def garbage(self) -> int:
        """Lines that were no events."""
        return sum(tail.skipped for tail in self._tails.values())

    def _time(self, worker: int, event: Mapping[str, Any]) -> float:
        """When it was said; never before what the same worker said earlier."""
        t, last_t = event.get("t"), self._last_t.get(worker, -math.inf)
        known = isinstance(t, int | float) and math.isfinite(t)
        self._last_t[worker] = max(last_t, float(t)) if known and t is not None else last_t
        return self._last_t[worker]

    def _leads(self, worker: int, event: Mapping[str, Any]) -> bool:
        kind = event.get("type")
        if kind == "attached":
            return worker == 0 and not event.get("joins")
        if kind == "adjusted":
            crew = event.get("crew")
            first = crew[0] if isinstance(crew, list) and crew else worker
            self.leader = first if isinstance(first, int) else worker
        return kind in _OF_THE_RUN or worker == self.leader
