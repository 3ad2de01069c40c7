"""Show what would be bought, and ask. Starting a spend and confirming it are different acts."""

from __future__ import annotations

import sys

from planner.cli import diagnostics
from planner.cli.optiontable import goal_words
from planner.cli.tables import money_range, time_range
from planner.core import explain
from planner.core.consent import is_amount, worst_case_usd
from planner.core.errors import NotConfirmedError
from planner.core.types import EstimateResult, Option
from planner.core.units import format_chance, format_money


def plan_text(result: EstimateResult, option: Option, max_usd_per_h: float) -> str:
    """The plan as it is agreed to."""
    goal = result.goal
    lines = [
        f"plan        {result.job.name}: {result.work.samples} samples x {result.work.epochs:g}"
        f" epochs on {explain.label(option)}   ({option.id} of {result.id})",
        f"time        {time_range(option.total_s)}   P(on time) {format_chance(option.p_deadline)}",
        f"cost        {money_range(option.cost_usd)}"
        f"   P(in budget) {format_chance(option.p_budget)}",
        f"price       at most {format_money(max_usd_per_h)}/h"
        f" ({option.price.source}); dearer is not launched",
        f"goal        {'   '.join(goal_words(goal)) or 'none'}",
        f"memory      {explain.memory_text(option)}",
        f"evidence    {option.evidence}; {explain.bottleneck_text(option)}",
    ]
    lines += [f"refused     {reason.text}" for reason in option.reasons]
    return "\n".join(lines)


def require_terminal(what: str, line: str) -> None:
    """Refuse to ask about `what` where nobody can answer; `line` is what to type instead.

    Raises:
        NotConfirmedError: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise NotConfirmedError(
            f"{what} needs a confirmation, and standard input is not a terminal", hint=line
        )


def confirm(result: EstimateResult, option: Option, *, above_usd: float) -> None:
    """Ask for one `y`, or for the cap when the worst case is above `above_usd`.

    Raises:
        NotConfirmedError: Refused.
    """
    worst = worst_case_usd(option, result.goal.budget_usd)
    question = f"launch, for at most {format_money(worst)}?"
    ask_to_spend(question, worst, above_usd=above_usd, verb="launch", refused="not launched")


def ask_to_spend(
    question: str, worst_usd: float, *, above_usd: float, verb: str, refused: str
) -> None:
    """Ask for one `y`, or for the amount when that may be above `above_usd`.

    Raises:
        NotConfirmedError: Refused.
    """
    if worst_usd <= above_usd:
        if diagnostics.ask(f"{question} [y/N] ").lower() != "y":
            raise NotConfirmedError(f"{refused}: you said no")
        return
    shown = format_money(worst_usd)
    answer = diagnostics.ask(f"this may cost {shown}; type the amount to {verb}: ")
    if not is_amount(answer, worst_usd):
        raise NotConfirmedError(f"{refused}: {shown} was not typed")
