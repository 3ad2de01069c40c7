"""What is agreed to at launch: the most that a run may cost."""

from __future__ import annotations

from support.planning import estimate

from planner.core.consent import worst_case_usd


def test_without_a_cap_it_is_the_99_percent_quantile() -> None:
    option = estimate().options[0]
    assert worst_case_usd(option, None) == option.cost_usd.quantiles[-1]


def test_only_the_cap_stops_a_run_so_the_cap_is_what_it_may_cost() -> None:
    option = estimate().options[0]
    highest = option.cost_usd.quantiles[-1]
    assert worst_case_usd(option, highest / 2) == highest / 2
    assert worst_case_usd(option, highest * 3) == highest * 3
