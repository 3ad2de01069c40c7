"""What is agreed to: the most that a run may cost, and the amount that is typed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.planning import estimate

from planner.core.consent import is_amount, rest, worst_case_usd
from planner.core.distribution import Distribution


def test_without_a_cap_it_is_the_99_percent_quantile() -> None:
    option = estimate().options[0]
    assert worst_case_usd(option, None) == option.cost_usd.quantiles[-1]


def test_only_the_cap_stops_a_run_so_the_cap_is_what_it_may_cost() -> None:
    option = estimate().options[0]
    highest = option.cost_usd.quantiles[-1]
    assert worst_case_usd(option, highest / 2) == highest / 2
    assert worst_case_usd(option, highest * 3) == highest * 3


def test_a_run_may_still_spend_what_its_cap_leaves() -> None:
    option = estimate().options[0]
    left = rest(option, budget_usd=40.0, spent_usd=2.0, saved=0.5)
    assert (left.worst_usd, left.limited, left.text) == (38.0, True, "at most $38.00 more")
    assert rest(option, budget_usd=1.0, spent_usd=1.2, saved=0.5).worst_usd == 0.0


def test_without_a_cap_nothing_limits_it_and_what_is_not_saved_is_paid_again() -> None:
    option = replace(estimate().options[0], cost_usd=Distribution.exactly(8.0))
    left = rest(option, budget_usd=None, spent_usd=5.0, saved=0.25)
    assert (left.worst_usd, left.expected_usd, left.limited) == (6.0, 6.0, False)
    assert left.text == "no limit; about $6.00 more, retries not counted"


@pytest.mark.parametrize(
    ("typed", "amount_usd", "right"),
    [
        ("38", 38.0, True),
        (" $38.00 ", 38.004, True),
        ("3.80", 38.0, False),
        ("y", 38.0, False),
        ("", 38.0, False),
        ("0.0231", 0.02312, True),
        ("0.02", 0.02312, False),
    ],
)
def test_the_amount_is_typed_as_it_is_shown(typed: str, amount_usd: float, right: bool) -> None:
    assert is_amount(typed, amount_usd) is right
