"""Costs: time by price, a price that moves, and what bills showed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95, LEVELS, Distribution
from predictors.cost import CostRegressor, price_sigma


def learned(*factors: float) -> CostRegressor:
    """From runs of an hour at 2 dollars that cost so many times that."""
    n = len(factors)
    X = {"run_s": np.full(n, 3600.0), "usd_per_h": np.full(n, 2.0)}
    return CostRegressor().fit(X, 2.0 * np.asarray(factors))


def cost(model: CostRegressor, run: Distribution, usd_per_h: float = 2.0, **day: float):
    asked = {"run_s": np.asarray([run.quantiles]), "usd_per_h": [usd_per_h]}
    return model.predict_distribution({**asked, **{k: [v] for k, v in day.items()}})[0]


def test_a_known_time_at_a_known_price_costs_their_product() -> None:
    assert cost(learned(), Distribution.exactly(5400)) == pytest.approx([3.0] * len(LEVELS))
    assert learned().predict({"run_s": [5400.0], "usd_per_h": [2.0]}) == pytest.approx([3.0])


def test_free_stays_free() -> None:
    run = Distribution.lognormal(3600, 0.3)
    moving = {"p50_24h_usd_per_h": 1.0, "p90_24h_usd_per_h": 1.5}
    assert cost(learned(1.2, 1.3), run, 0.0, **moving).max() == 0


def test_a_moving_price_widens_the_cost_as_a_product_of_lognormals_does() -> None:
    p90 = 2.0 * math.exp(0.15 * 1.2815515655446004)
    run = Distribution.lognormal(3600, 0.2)
    found = cost(learned(), run, 1.0, p50_24h_usd_per_h=2.0, p90_24h_usd_per_h=p90)
    assert found == pytest.approx(Distribution.lognormal(1.0, math.hypot(0.2, 0.15)).quantiles)


def test_spread_of_the_price_comes_from_the_last_day() -> None:
    p50, p90 = np.asarray([2.0, 2.0, np.nan, 0.0]), np.asarray([2.4, 2.0, 3.0, 0.0])
    sigma = price_sigma(p50, p90)
    assert 2.0 * math.exp(sigma[0] * 1.2815515655446004) == pytest.approx(2.4)
    assert sigma[1:].tolist() == [0, 0, 0]


def test_bills_that_agree_change_nothing() -> None:
    run = Distribution.lognormal(3600, 0.2)
    assert cost(learned(1.0, 1.0, 1.0), run) == pytest.approx(cost(learned(), run))


def test_bills_above_time_by_price_raise_what_is_expected_little_by_little() -> None:
    run = Distribution.exactly(3600)
    few, many = (cost(learned(*[1.2] * n), run) for n in (2, 40))
    assert 2.0 < few[I50] < many[I50] < 2.4
    assert many[I50] == pytest.approx(2.4, rel=0.02)
    assert few[I05] < 2.0 < 2.4 < few[I95]  # two bills do not settle it
    assert many[I95] / many[I05] < few[I95] / few[I05]


def test_bills_that_differ_widen_the_cost() -> None:
    apart = cost(learned(*[0.8, 1.25] * 10), Distribution.exactly(3600))
    assert apart[I50] == pytest.approx(2.0, rel=0.01)
    assert apart[I95] / apart[I05] > 1.6


def test_one_absurd_bill_does_not_rule() -> None:
    found = cost(learned(*[1.0] * 10, 1000.0), Distribution.exactly(3600))
    assert found[I50] < 2.2


@settings(max_examples=50)
@given(median=st.floats(1, 1e6), spread=st.floats(0, 1.5), usd=st.floats(0, 100))
def test_costs_are_ordered_and_grow_with_time_and_price(median, spread, usd) -> None:
    model = learned(1.1, 0.95)
    run = Distribution.lognormal(median, spread)
    base = cost(model, run, usd)
    assert (np.diff(base) >= 0).all() and base[0] >= 0
    assert (cost(model, run.scaled(1.5), usd) >= base).all()
    assert (cost(model, run, 1.5 * usd) >= base).all()


def test_a_price_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="usd_per_h"):
        learned().predict({"run_s": [1.0], "usd_per_h": [-1.0]})


def test_quantiles_of_the_time_that_fall_are_refused() -> None:
    falling = np.linspace(20.0, 10.0, len(LEVELS))[None]
    with pytest.raises(ValueError, match="do not fall"):
        CostRegressor().fit(
            {"run_s": np.zeros(0), "usd_per_h": np.zeros(0)}, []
        ).predict_distribution({"run_s": falling, "usd_per_h": np.ones(1)})


def test_quantiles_of_the_time_are_no_bill() -> None:
    with pytest.raises(ValueError, match="vector"):
        CostRegressor().fit({"run_s": np.ones((1, len(LEVELS))), "usd_per_h": [1.0]}, [1.0])
