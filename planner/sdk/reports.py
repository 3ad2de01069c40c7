"""What a change cost, measured around it and told once: the event `adjusted`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from planner.sdk.crew.crew import Standing
from planner.sdk.gear import Gear
from planner.sdk.levers import Knobs
from planner.sdk.plannedfeed import PlannedFeed

_WATCHED_STEPS = 3
"""Steps after a change in which a pause still counts as its doing."""


@dataclass(slots=True)
class _Report:
    """A change, with all that is in force under it: by the time it is told, another may be."""

    told: dict[str, Any]
    stepped_t: float
    led: bool
    first_step_t: float | None = None
    gaps_s: list[float] = field(default_factory=list)


class Reports:
    """At most one change is measured at a time: the next one closes the one before it.

    Attributes:
        open: Whether a change is being measured.
    """

    def __init__(self, gear: Gear, feed: PlannedFeed) -> None:
        self.open = False
        self._gear = gear
        self._feed = feed
        self._report: _Report | None = None

    def begin(
        self,
        knobs: Knobs,
        wish: object,
        reason: str,
        *,
        source: Standing | None = None,
        lost: tuple[int, ...] = (),
        redone_samples: int = 0,
    ) -> None:
        """A change was made: the next step is the first under it.

        Args:
            knobs: What is in force under it.
            wish: Id of the adjustment; None when nobody asked.
            reason: `asked` or `lost`.
            source: Who knows when the last step ended, if not this worker.
            lost: Workers that were lost.
            redone_samples: What is computed a second time.
        """
        self.close()
        watch = self._gear.stopwatch
        stepped_t = time.time() - (time.perf_counter() - watch.stepped_s)
        usual_s = watch.usual_step_s
        if source is not None:
            stepped_t, usual_s = source.position["stepped_t"], source.position["usual_step_s"]
        told = {
            "id": wish,
            "reason": reason,
            **self._standing(),
            "lost": list(lost),
            "step_time_s": None if usual_s is None else round(usual_s, 5),
            "redone_samples": redone_samples,
            "lost_samples": 0,
            **knobs._asdict(),
        }
        self._report = _Report(told, stepped_t, self._gear.workers.leads)
        self.open = True

    def _standing(self) -> dict[str, Any]:
        """Where training stands, and who shares its steps."""
        at, crew = self._gear.keeper.at, self._gear.crew
        return {
            "step": at.step,
            "epoch": at.epoch,
            "position": at.position,
            "samples": at.samples,
            "generation": crew.generation if crew is not None else 0,
            "crew": list(crew.workers) if crew is not None else None,
            "workers": self._gear.workers.count,
            "accumulation": self._feed.accumulation,
            "steps_per_epoch": self._feed.steps_per_epoch,
        }

    def stepped(self) -> None:
        """A step is done."""
        report = self._report
        if report is None:
            return
        now_t = time.time()
        if report.first_step_t is None:
            report.first_step_t = now_t
        report.gaps_s.append(now_t - report.stepped_t)
        report.stepped_t = now_t
        if len(report.gaps_s) >= _WATCHED_STEPS:
            self.close()

    def close(self) -> None:
        """Tell of the change that is being measured.

        A worker that does not lead any more tells of what it led; one that leads now, of what the
        leader before it can have taken along.
        """
        report, self._report, self.open = self._report, None, False
        if report is None or not (report.led or self._gear.workers.leads):
            return
        first_t = report.first_step_t
        self._gear.courier.say(
            "adjusted",
            at_once=True,
            first_step_t=None if first_t is None else round(first_t, 4),
            stall_s=round(max(report.gaps_s), 4) if report.gaps_s else None,
            **report.told,
        )
