"""What was agreed to for a run, and what was decided while it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from planner.core.job import Goal, JobSpec
from planner.core.types import Option, WorkLoad

ControllerMode = Literal["off", "suggest", "guarded", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was agreed to: the option, the caps, and the price that was shown.

    Attributes:
        max_usd_per_h: The highest price per hour the user accepted.
        budget_microusd: Hard cap on the whole run; None when there is none.
    """

    run_id: str
    name: str
    job: JobSpec
    option: Option
    work: WorkLoad
    goal: Goal
    estimate_id: str
    created_at: datetime
    max_usd_per_h: float
    budget_microusd: int | None
    controller: ControllerMode = "guarded"
    retries: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision of a guard or a controller: what it saw, did, expected, and what came of it."""

    id: str
    at: datetime
    action: str
    why: str
    mode: str
    expected: str = "-"
    measured: str = "-"
    observation: Mapping[str, float | str | None] = field(default_factory=dict)
    alternatives: tuple[tuple[str, float | None, str], ...] = ()
