"""What a person agrees to before money may be spent: a launch, a resumed run, a raised limit."""

from __future__ import annotations

from dataclasses import dataclass

from planner.core.errors import UnitError
from planner.core.types import Option
from planner.core.units import format_money, parse_money_usd


def worst_case_usd(option: Option, budget_usd: float | None) -> float:
    """Most that the run may cost: its cap, or the 99 % quantile of the cost where there is none.

    The cap counts even when it is far above what is predicted, since only the cap stops a run.
    """
    return option.cost_usd.quantiles[-1] if budget_usd is None else budget_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What a run may still spend.

    Attributes:
        worst_usd: What its cap leaves; without a cap the 99 % quantile of what is left of the work.
        expected_usd: The median of that.
        limited: Whether a cap holds it to `worst_usd`. Without one, retries come on top.
    """

    worst_usd: float
    expected_usd: float
    limited: bool

    @property
    def text(self) -> str:
        """The rest in words."""
        if self.limited:
            return f"at most {format_money(self.worst_usd)} more"
        return f"no limit; about {format_money(self.expected_usd)} more, retries not counted"


def rest(option: Option, *, budget_usd: float | None, spent_usd: float, saved: float) -> Rest:
    """What a run may still spend; `saved` is the fraction of the work in its checkpoint.

    What was done since the checkpoint is done, and paid, again.
    """
    if budget_usd is not None:
        worst_usd = max(budget_usd - spent_usd, 0.0)
    else:
        worst_usd = worst_case_usd(option, None) * (1 - saved)
    return Rest(
        worst_usd=worst_usd,
        expected_usd=option.cost_usd.p50 * (1 - saved),
        limited=budget_usd is not None,
    )


def is_amount(typed: str, amount_usd: float) -> bool:
    """Whether what was typed is the amount that was asked for, as it is shown."""
    try:
        typed_usd = parse_money_usd(typed)
    except UnitError:
        return False
    return abs(typed_usd - parse_money_usd(format_money(amount_usd).lstrip("<$"))) < 1e-9
