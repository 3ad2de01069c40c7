"""What a person agrees to when a run is launched."""

from __future__ import annotations

from planner.core.types import Option


def worst_case_usd(option: Option, budget_usd: float | None) -> float:
    """Most that the run may cost: its cap, or the 99 % quantile of the cost where there is none.

    The cap counts even when it is far above what is predicted, since only the cap stops a run.
    """
    return option.cost_usd.quantiles[-1] if budget_usd is None else budget_usd
