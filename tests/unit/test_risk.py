"""Wait, run, interruptions and price combined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I50, I95, LEVELS, Distribution, mean
from planner.core.risk import combine, poisson_quantiles, price_sigma


def _rows(*distributions: Distribution) -> np.ndarray:
    return np.asarray([d.quantiles for d in distributions])


def _one(  # one option with everything plain unless told
    *,
    wait: Distribution | None = None,
    run: Distribution | None = None,
    usd_per_h: float = 2.0,
    sigma: float = 0.0,
    hazard: float = 0.0,
    checkpoint_s: float = 600.0,
    restart_s: float = 100.0,
):
    return combine(
        wait_s=_rows(wait or Distribution.exactly(0)),
        run_s=_rows(run or Distribution.exactly(3600)),
        usd_per_h=np.asarray([usd_per_h]),
        price_sigma=np.asarray([sigma]),
        interruptions_per_h=np.asarray([hazard]),
        checkpoint_interval_s=np.asarray([checkpoint_s]),
        restart_s=restart_s,
    )


def test_known_parts_add_up_exactly() -> None:
    totals = _one(wait=Distribution.exactly(60))
    assert totals.total_s[0] == pytest.approx([3660] * len(LEVELS))
    assert totals.cost_usd[0] == pytest.approx([2.0] * len(LEVELS))
    assert totals.interruptions[0] == 0


def test_waiting_costs_no_money() -> None:
    waiting = _one(wait=Distribution.lognormal(600, 0.5))
    assert waiting.cost_usd.tolist() == _one().cost_usd.tolist()


def test_free_stays_free() -> None:
    totals = _one(run=Distribution.lognormal(3600, 0.3), usd_per_h=0.0, sigma=0.4)
    assert totals.cost_usd.max() == 0


def test_interruptions_cost_half_an_interval_and_a_restart_on_average() -> None:
    run = Distribution.exactly(36_000)  # ten hours
    totals = _one(run=run, hazard=2.0, checkpoint_s=600, restart_s=100)
    assert totals.interruptions[0] == pytest.approx(20)
    expected_s = 36_000 + 20 * (600 / 2 + 100)
    assert mean(totals.run_s)[0] == pytest.approx(expected_s, rel=0.01)


def test_poisson_quantiles_are_those_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    for expected in (0.04, 0.7, 5.0, 80.0):
        drawn = rng.poisson(expected, 200_000)
        ours = poisson_quantiles(np.asarray([expected]))[0]
        theirs = np.quantile(drawn, LEVELS, method="inverted_cdf")
        assert np.abs(ours - theirs).max() <= 1


def test_a_moving_price_widens_the_cost_as_a_product_of_lognormals_does() -> None:
    totals = _one(run=Distribution.lognormal(3600, 0.2), usd_per_h=1.0, sigma=0.15)
    both = math.hypot(0.2, 0.15)
    exact = Distribution.lognormal(1.0, both)
    assert totals.cost_usd[0] == pytest.approx(exact.quantiles)


def test_spread_of_the_price_comes_from_the_last_day() -> None:
    p50, p90 = np.asarray([2.0, 2.0, np.nan, 0.0]), np.asarray([2.4, 2.0, 3.0, 0.0])
    sigma = price_sigma(p50, p90)
    assert 2.0 * math.exp(sigma[0] * 1.2815515655446004) == pytest.approx(2.4)
    assert sigma[1:].tolist() == [0, 0, 0]


@settings(max_examples=50)
@given(
    median=st.floats(1, 1e6),
    spread=st.floats(0, 1.5),
    wait=st.floats(0, 1e5),
    hazard=st.floats(0, 3),
    sigma=st.floats(0, 0.8),
)
def test_totals_are_ordered_and_never_below_their_parts(
    median: float, spread: float, wait: float, hazard: float, sigma: float
) -> None:
    totals = _one(
        wait=Distribution.lognormal(wait, 0.8),
        run=Distribution.lognormal(median, spread),
        hazard=hazard,
        sigma=sigma,
    )
    for quantiles in (totals.run_s[0], totals.total_s[0], totals.cost_usd[0]):
        assert (np.diff(quantiles) >= 0).all()
        assert quantiles[0] >= 0
    assert totals.total_s[0][I50] >= totals.run_s[0][I50]
    assert totals.total_s[0][I95] >= totals.run_s[0][I95] * (1 - 1e-9)
