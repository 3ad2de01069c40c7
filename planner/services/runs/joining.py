"""Whether a run that goes on already is what is asked for: who joins it relies on its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from planner.core.errors import UsageError
from planner.core.job import Goal
from planner.core.plan import Plan
from planner.core.units import format_money

_SAME_S = 1.0
"""Deadlines that lie no further apart are the same."""
_SAME_USD = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody wants of a run; None where nothing was said.

    Attributes:
        option_id: The option that was named, in full or its first letters.
        fingerprint: Of the work in the plan that was named.
        max_usd_per_h: The highest price per hour that was named.
    """

    goal: Goal
    option_id: str | None = None
    fingerprint: str | None = None
    max_usd_per_h: float | None = None


def looser(plan: Plan, asked: Goal) -> list[str]:
    """Limits of the run that are stricter than what is asked for, each with both values.

    `plan` carries the limits as they are now, after extensions.
    """
    found, has = [], plan.goal
    if asked.budget_usd is not None and (has.budget_usd or math.inf) < asked.budget_usd - _SAME_USD:
        found.append(_budget(has, asked.budget_usd))
    # The same words said again later mean a later moment, and nothing else.
    reworded = asked.deadline_s is None or asked.deadline_s != has.deadline_s
    if (
        reworded
        and asked.deadline_at is not None
        and has.deadline_at is not None
        and _seconds(asked.deadline_at, has.deadline_at) > _SAME_S
    ):
        found.append(_deadline(has, asked.deadline_at))
    return found


def require_same(plan: Plan, asked: Asked) -> None:
    """Refuse to join a run that does not keep to what is asked for.

    Raises:
        UsageError: Its cap or price is higher, its deadline later, or it is another option or work.
    """
    found, has, goal = [], plan.goal, asked.goal
    if goal.budget_usd is not None and (has.budget_usd or math.inf) > goal.budget_usd + _SAME_USD:
        found.append(_budget(has, goal.budget_usd))
    if goal.deadline_at is not None and (
        has.deadline_at is None or _seconds(has.deadline_at, goal.deadline_at) > _same_s(has, goal)
    ):
        found.append(_deadline(has, goal.deadline_at))
    if asked.max_usd_per_h is not None and plan.max_usd_per_h > asked.max_usd_per_h:
        limits = format_money(plan.max_usd_per_h), format_money(asked.max_usd_per_h)
        found.append(f"price up to {limits[0]}/h, {limits[1]}/h asked for")
    if asked.option_id is not None and not plan.option.id.startswith(asked.option_id):
        found.append(f"option {plan.option.id}, {asked.option_id} asked for")
    if asked.fingerprint is not None and plan.work.fingerprint != asked.fingerprint:
        found.append("other work than the plan's")
    if found:
        raise UsageError(
            f'{plan.run_id} of the name "{plan.name}" is running otherwise than asked for: '
            f"{'; '.join(found)}. Nothing is launched, and nothing changed",
            hint=f"planner attach {plan.run_id} watches it as it is; planner cancel {plan.run_id} "
            "makes room; another --name starts a second run",
            code="run.otherwise",
        )


def _same_s(has: Goal, asked: Goal) -> float:
    """How far apart two deadlines may lie: those of one command given twice at once a little."""
    same_words = asked.deadline_s is not None and asked.deadline_s == has.deadline_s
    return max(_SAME_S, 0.01 * asked.deadline_s) if same_words and asked.deadline_s else _SAME_S


def _seconds(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()


def _budget(has: Goal, asked_usd: float) -> str:
    now = "no budget" if has.budget_usd is None else f"budget {format_money(has.budget_usd)}"
    return f"{now}, {format_money(asked_usd)} asked for"


def _deadline(has: Goal, asked_at: datetime) -> str:
    if has.deadline_at is None:
        return f"no deadline, {asked_at:%Y-%m-%d %H:%M:%S} UTC asked for"
    return (
        f"deadline {has.deadline_at:%Y-%m-%d %H:%M:%S} UTC, {asked_at:%Y-%m-%d %H:%M:%S} asked for"
    )
