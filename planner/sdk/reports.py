"""What a change cost, measured around it and told once: the event `adjusted`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from planner.sdk.crew.crew import Standing
from planner.sdk.gear import Gear
from planner.sdk.levers import Knobs
from planner.sdk.plannedfeed import PlannedFeed
from planner.sdk.state import Position

_WATCHED_STEPS = 3
"""Steps after a change in which a pause still counts as its doing."""


@dataclass(slots=True)
class _Report:
    id: object
    reason: str
    at: Position
    stepped_t: float
    usual_step_s: float | None
    lost: tuple[int, ...]
    redone_samples: int
    first_step_t: float | None = None
    gaps_s: list[float] = field(default_factory=list)


class Reports:
    """At most one change is measured at a time: the next one closes the one before it."""

    def __init__(self, gear: Gear, feed: PlannedFeed) -> None:
        self._gear = gear
        self._feed = feed
        self._report: _Report | None = None

    @property
    def open(self) -> bool:
        """Whether a change is being measured."""
        return self._report is not None

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
        """A change happens now.

        Args:
            knobs: What is in force, for a change before this one that is told now.
            wish: Id of the adjustment; None when nobody asked.
            reason: `asked` or `lost`.
            source: Who knows when the last step ended, if not this worker.
            lost: Workers that were lost.
            redone_samples: What is computed a second time.
        """
        self.close(knobs)
        watch = self._gear.stopwatch
        stepped_t = time.time() - (time.perf_counter() - watch.stepped_s)
        usual_s = watch.usual_step_s
        if source is not None:
            stepped_t, usual_s = source.position["stepped_t"], source.position["usual_step_s"]
        at = self._gear.keeper.at
        self._report = _Report(wish, reason, at, stepped_t, usual_s, lost, redone_samples)

    def stepped(self, knobs: Knobs) -> None:
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
            self.close(knobs)

    def close(self, knobs: Knobs) -> None:
        """Tell of the change that is being measured."""
        report, self._report = self._report, None
        gear, usual_s = self._gear, report.usual_step_s if report is not None else None
        if report is None or not gear.workers.leads:
            return
        crew, first_t = gear.crew, report.first_step_t
        gear.courier.say(
            "adjusted",
            at_once=True,
            id=report.id,
            reason=report.reason,
            step=report.at.step,
            epoch=report.at.epoch,
            samples=report.at.samples,
            generation=crew.generation if crew is not None else 0,
            crew=list(crew.workers) if crew is not None else None,
            workers=gear.workers.count,
            lost=list(report.lost),
            accumulation=self._feed.accumulation,
            first_step_t=None if first_t is None else round(first_t, 4),
            stall_s=round(max(report.gaps_s, default=0.0), 4),
            step_time_s=None if usual_s is None else round(usual_s, 5),
            redone_samples=report.redone_samples,
            lost_samples=0,
            **knobs._asdict(),
        )
