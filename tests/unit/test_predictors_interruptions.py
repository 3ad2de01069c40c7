"""What interruptions add to a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import LEVELS, Distribution, mean
from predictors.interruptions import interrupted, poisson_quantiles


def one(run: Distribution, *, hazard: float, checkpoint_s: float = 600.0, restart_s: float = 100.0):
    return interrupted(
        np.asarray([run.quantiles]),
        per_h=np.asarray([hazard]),
        checkpoint_interval_s=np.asarray([checkpoint_s]),
        restart_s=restart_s,
    )


def test_each_costs_half_an_interval_and_a_restart_on_average() -> None:
    run_s, expected = one(Distribution.exactly(36_000), hazard=2.0)  # ten hours
    assert expected[0] == pytest.approx(20)
    assert mean(run_s)[0] == pytest.approx(36_000 + 20 * (600 / 2 + 100), rel=0.01)


def test_without_any_nothing_is_added() -> None:
    run = Distribution.lognormal(3600, 0.3)
    run_s, expected = one(run, hazard=0.0)
    assert run_s[0].tolist() == list(run.quantiles)
    assert expected[0] == 0


@pytest.mark.parametrize("interval_s", [0.0, 1e6])
def test_a_run_that_never_saved_loses_half_of_itself(interval_s: float) -> None:
    run_s, _ = one(Distribution.exactly(7200), hazard=0.5, checkpoint_s=interval_s, restart_s=0.0)
    assert mean(run_s)[0] == pytest.approx(7200 + 3600, rel=0.02)


def test_poisson_quantiles_are_those_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    for expected in (0.04, 0.7, 5.0, 80.0):
        drawn = rng.poisson(expected, 200_000)
        ours = poisson_quantiles(np.asarray([expected]))[0]
        theirs = np.quantile(drawn, LEVELS, method="inverted_cdf")
        assert np.abs(ours - theirs).max() <= 1


@settings(max_examples=50)
@given(median=st.floats(1, 1e6), spread=st.floats(0, 1.5), hazard=st.floats(0, 3))
def test_they_only_ever_make_a_run_longer(median: float, spread: float, hazard: float) -> None:
    run = Distribution.lognormal(median, spread)
    run_s, _ = one(run, hazard=hazard)
    assert (np.diff(run_s[0]) >= 0).all()
    assert mean(run_s)[0] >= run.mean * (1 - 1e-9)
