"""`planner extend`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation
from planner.core.errors import UsageError
from planner.services.api import RunView, Services

LOOK_S = 0.2
WRITTEN_S = 10.0
"""How long a supervisor may take to write down what it was asked for."""


def extend(
    context: typer.Context,
    *,
    run: command.Run,
    deadline: Annotated[str | None, typer.Option(metavar="+D", help="So much later: +2h.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="+USD", help="So much more: +10.")] = None,
    yes: command.Yes = False,
    json: command.Json = False,
) -> None:
    """Raise a run's deadline or budget; the only way to raise a cap. Recorded as a decision.

    Both say how much is added to what was agreed to. As more may be spent after it, it asks.
    """
    from planner.cli.following import print_view
    from planner.core.units import parse_duration_s, parse_money_usd

    if deadline is None and budget is None:
        raise UsageError("nothing to extend", hint="planner extend RUN --deadline +2h --budget +10")
    more_s = _more("--deadline", deadline, parse_duration_s)
    more_usd = _more("--budget", budget, parse_money_usd, " USD")
    called = invocation.of(context)
    services = called.services()
    run_id = services.resolve(run)
    services.extend(run_id, deadline_s=more_s, budget_usd=more_usd, dry_run=True)
    before = services.view(run_id)
    diagnostics.say(f"{run_id}  {raise_text(before, more_s, more_usd)}")
    if not yes:
        above_usd = called.settings().ui.confirm_above_usd
        _agree(before, more_usd, called.line("--yes"), above_usd=above_usd)
    services.extend(run_id, deadline_s=more_s, budget_usd=more_usd)
    print_view(_written(services, before), json=json)


def _more(
    flag: str, text: str | None, parse: Callable[[str], float], unit: str = ""
) -> float | None:
    """How much is added.

    Raises:
        UsageError: Without the plus that tells more from a new limit.
        UnitError: It is no such value.
    """
    if text is None:
        return None
    amount = text.strip()
    if not amount.startswith("+"):
        raise UsageError(
            f"{flag} {amount} can mean {amount}{unit} more, or {amount}{unit} in all",
            hint=f"say {flag} +{amount} to add {amount}{unit}; for {amount}{unit} in all,"
            " add what is missing to it",
        )
    return parse(amount.removeprefix("+"))


def raise_text(view: RunView, more_s: float | None, more_usd: float | None) -> str:
    """The limits that change, as they were and as they will be."""
    from planner.core.units import format_money

    goal, parts = view.plan.goal, []
    if more_usd is not None and goal.budget_usd is not None:
        now, then = format_money(goal.budget_usd), format_money(goal.budget_usd + more_usd)
        parts.append(f"budget {now} -> {then}")
    if more_s is not None and goal.deadline_at is not None:
        later = goal.deadline_at + timedelta(seconds=more_s)
        parts.append(
            f"deadline {_clock(goal.deadline_at)} -> {_clock(later, goal.deadline_at)} UTC"
        )
    return ", ".join(parts)


def _clock(at: datetime, beside: datetime | None = None) -> str:
    """A time to the second, as limits may be moved by less than a minute."""
    same_day = beside is not None and at.date() == beside.date()
    return f"{at:%H:%M:%S}" if same_day else f"{at:%Y-%m-%d %H:%M:%S}"


def _agree(view: RunView, more_usd: float | None, line: str, *, above_usd: float) -> None:
    """Ask. A later deadline alone does not let the run spend more."""
    from planner.cli.confirm import ask_to_spend, require_terminal
    from planner.core.units import format_money

    require_terminal("an extension", line)
    worst, question = 0.0, "extend it so?"
    if more_usd is not None:
        worst = view.rest.worst_usd + more_usd
        question = f"extend it so, for at most {format_money(worst)} more from now on?"
    ask_to_spend(question, worst, above_usd=above_usd, verb="extend", refused="not extended")


def _written(services: Services, before: RunView) -> RunView:
    """The run with its new limits, once its supervisor has written them down."""
    end_s = time.monotonic() + WRITTEN_S
    while True:
        view = services.view(before.summary.id)
        if view.plan.goal != before.plan.goal:
            return view
        if time.monotonic() >= end_s:
            diagnostics.say(f"not taken up yet: planner status {view.summary.id} shows when it is")
            return view
        time.sleep(LOOK_S)


APPS = {
    "extend": command.single(
        extend,
        "planner extend @last --deadline +2h --budget +10",
        "planner extend r-7f3k --budget +0.50 --yes",
    )
}
