"""What watches over a run: its cap, its deadline, and signs of life. Pure; nothing learned.

The guards only look and say; the supervisor acts. Money is judged in whole micro-dollars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from planner.core.distribution import Distribution
from planner.core.units import format_chance

WARN_AT = (0.80, 0.95)
"""Parts of the cap at which the user is warned."""
_HYSTERESIS = 0.03
"""How far a chance must recover before the next fall is told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What is left of a run: wall time, and optimiser steps."""

    run_s: Distribution
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the guard wants told, under a stable code."""

    code: str
    text: str
    falling: bool = True


@dataclass(slots=True, kw_only=True)
class BudgetGuard:
    """Stops a run while there is still money for a clean stop.

    The rule: stop when accrued + committed + p95(cost to stop cleanly) >= cap. The cost to stop
    covers one more look of the supervisor as well, since it acts only when it looks.
    """

    cap_microusd: int | None
    confidence: float = 0.9
    _told: set[float] = field(default_factory=set)
    _unlikely: bool = False

    def remember(self, texts: Sequence[str]) -> None:
        """What an earlier supervisor told already is not told again."""
        self._told |= {part for part in WARN_AT if _share_text(part) in texts}

    def extend(self, cap_microusd: int | None) -> None:
        """A new cap: warnings start anew."""
        self.cap_microusd = cap_microusd
        self._told.clear()
        self._unlikely = False

    def must_stop(
        self, accrued_microusd: int, usd_per_h: float, stop_s: float, committed_microusd: int = 0
    ) -> bool:
        """Whether the run has to stop now to stay under its cap.

        Args:
            accrued_microusd: Spent so far.
            usd_per_h: Price in force.
            stop_s: High estimate of the time until everything is released.
            committed_microusd: Owed already, whatever happens, such as a minimum charge.
        """
        if self.cap_microusd is None:
            return False
        reserve = math.ceil(usd_per_h * 1e6 * stop_s / 3600)
        if usd_per_h <= 0 and accrued_microusd + committed_microusd < self.cap_microusd:
            return False
        return accrued_microusd + committed_microusd + reserve >= self.cap_microusd

    def p_budget(
        self, accrued_microusd: int, usd_per_h: float, remaining: Remaining | None
    ) -> float | None:
        """Chance that the run ends under its cap; None without a cap or an estimate."""
        if self.cap_microusd is None or remaining is None:
            return None
        if usd_per_h <= 0:
            return 1.0 if accrued_microusd < self.cap_microusd else 0.0
        room_s = (self.cap_microusd - accrued_microusd) / (usd_per_h * 1e6) * 3600
        return remaining.run_s.prob_below(room_s)

    def warnings(self, accrued_microusd: int, p_budget: float | None) -> list[Warned]:
        """What is new to tell about money."""
        if self.cap_microusd is None:
            return []
        told: list[Warned] = []
        for part in WARN_AT:
            if accrued_microusd >= part * self.cap_microusd and part not in self._told:
                self._told.add(part)
                code = f"budget.{part * 100:.0f}"
                told.append(Warned(code=code, text=_share_text(part)))
        if p_budget is not None:
            now = _crossed(p_budget, self.confidence, self._unlikely)
            if now != self._unlikely:
                self._unlikely = now
                told.append(_chance("budget", "the cap", p_budget, self.confidence, now))
        return told


@dataclass(slots=True, kw_only=True)
class DeadlineGuard:
    """Tells when the deadline is in danger. It has no means of its own to save it."""

    deadline_at: datetime | None
    confidence: float = 0.9
    _unlikely: bool = False
    _missed: bool = False

    def extend(self, deadline_at: datetime) -> None:
        """A new deadline: warnings start anew."""
        self.deadline_at = deadline_at
        self._unlikely = self._missed = False

    def p_deadline(self, now: datetime, remaining: Remaining | None) -> float | None:
        """Chance to be done in time; None without a deadline or an estimate."""
        if self.deadline_at is None or remaining is None:
            return None
        return remaining.run_s.prob_below((self.deadline_at - now).total_seconds())

    def warnings(self, now: datetime, p_deadline: float | None) -> list[Warned]:
        """What is new to tell about time."""
        if self.deadline_at is None:
            return []
        if now > self.deadline_at:
            if self._missed:
                return []
            self._missed = True
            return [Warned(code="deadline.missed", text="the deadline has passed; the run goes on")]
        if p_deadline is None:
            return []
        unlikely = _crossed(p_deadline, self.confidence, self._unlikely)
        if unlikely == self._unlikely:
            return []
        self._unlikely = unlikely
        return [_chance("deadline", "the deadline", p_deadline, self.confidence, unlikely)]


def _share_text(part: float) -> str:
    return f"{part:.0%} of the cap is spent"


def _crossed(chance: float, confidence: float, unlikely: bool) -> bool:
    """Whether the chance now counts as too low; it must recover a little before it is fine."""
    return chance < min(0.99, confidence + _HYSTERESIS) if unlikely else chance < confidence


def _chance(code: str, what: str, chance: float, confidence: float, falling: bool) -> Warned:
    if falling:
        text = f"the chance to keep {what} fell to {format_chance(chance)}, under {confidence:.2f}"
        return Warned(code=f"{code}.unlikely", text=text)
    text = f"the chance to keep {what} is back at {format_chance(chance)}"
    return Warned(code=f"{code}.likely", text=text, falling=False)


@dataclass(slots=True, kw_only=True)
class HangGuard:
    """Tells a run that stands still from one that is slow. Times are monotonic seconds.

    Before the first step a job imports, builds and loads: it gets `start_s` more. The end of an
    epoch (evaluation) has no steps either: the longest one seen is allowed for.
    """

    timeout_s: float
    start_s: float
    _alive_at_s: float = 0.0
    _stepped: bool = False

    def started(self, at_s: float) -> None:
        """Workers were launched."""
        self._alive_at_s = at_s
        self._stepped = False

    def alive(self, at_s: float, *, stepped: bool) -> None:
        """A sign of life; `stepped` when it was a step, an epoch or a checkpoint."""
        self._alive_at_s = max(self._alive_at_s, at_s)
        self._stepped = self._stepped or stepped

    def silent_s(self, at_s: float) -> float:
        """Seconds since the last sign of life."""
        return at_s - self._alive_at_s

    def hangs(self, at_s: float, longest_tail_s: float) -> bool:
        """Whether the silence is longer than a working job's can be."""
        allowance = 2 * longest_tail_s if self._stepped else self.start_s
        return self.silent_s(at_s) > self.timeout_s + allowance
