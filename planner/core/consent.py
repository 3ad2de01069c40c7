"""What a person agrees to before money may be spent: a launch, a resumed run, a raised limit."""

from __future__ import annotations

from planner.core.errors import UnitError
from planner.core.types import Option
from planner.core.units import format_money, parse_money_usd


def worst_case_usd(option: Option, budget_usd: float | None) -> float:
    """Most that the run may cost: its cap, or the 99 % quantile of the cost where there is none.

    The cap counts even when it is far above what is predicted, since only the cap stops a run.
    """
    return option.cost_usd.quantiles[-1] if budget_usd is None else budget_usd


def rest_usd(
    option: Option, *, budget_usd: float | None, spent_usd: float, progress: float
) -> float:
    """What a run may still spend: what its cap leaves, or without one the dearest rest.

    `progress` is the fraction of the work that is done.
    """
    worst_usd = worst_case_usd(option, budget_usd)
    if budget_usd is None:
        return worst_usd * (1 - progress)
    return max(worst_usd - spent_usd, 0.0)


def is_amount(typed: str, amount_usd: float) -> bool:
    """Whether what was typed is the amount that was asked for, as it is shown."""
    try:
        typed_usd = parse_money_usd(typed)
    except UnitError:
        return False
    return abs(typed_usd - parse_money_usd(format_money(amount_usd).lstrip("<$"))) < 1e-9
