"""What interruptions add to a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95, LEVELS, Distribution, Z, mean, prob_below
from predictors.cost import CostRegressor
from predictors.interruptions import LONGEST_S, MOST_INTERRUPTIONS, failures, interrupted


def one(run: Distribution, *, hazard: float, checkpoint_s: float = 600.0, restart_s: float = 100.0):
    return interrupted(
        np.asarray([run.quantiles]),
        per_h=np.asarray([hazard]),
        checkpoint_interval_s=np.asarray([checkpoint_s]),
        restart_s=restart_s,
    )


def simulated_s(
    work_s: float, *, hazard: float, checkpoint_s: float, restart_s: float, runs: int = 4000
) -> np.ndarray:
    """Whole runs played through: work is lost back to the last checkpoint, restarts may fail."""
    rng = np.random.default_rng(0)
    taken = np.empty(runs)
    for i in range(runs):
        now, done = 0.0, 0.0
        while done < work_s:
            left = work_s - done
            stretch = min(checkpoint_s, left) if checkpoint_s else left
            failure = rng.exponential(3600 / hazard)
            if failure >= stretch:
                now, done = now + stretch, done + stretch
                continue
            now += failure
            while (failure := rng.exponential(3600 / hazard)) < restart_s:
                now += failure
            now += restart_s
        taken[i] = now
    return taken


@pytest.mark.parametrize(
    ("hours", "hazard", "checkpoint_s"),
    [(10, 0.1, 0.0), (10, 0.2, 0.0), (10, 2.0, 600.0), (30, 1.0, 3600.0), (10, 0.05, 1e6)],
)
def test_runs_take_what_they_take_when_played_through(hours, hazard, checkpoint_s) -> None:
    work = hours * 3600.0
    run_s, expected = one(Distribution.exactly(work), hazard=hazard, checkpoint_s=checkpoint_s)
    real = simulated_s(work, hazard=hazard, checkpoint_s=checkpoint_s, restart_s=100.0)
    assert mean(run_s)[0] == pytest.approx(real.mean(), rel=0.12)
    assert run_s[0, I50] == pytest.approx(np.median(real), rel=0.2)
    assert run_s[0, I95] == pytest.approx(np.quantile(real, 0.95), rel=0.2)
    stretch = min(checkpoint_s or work, work)
    assert expected[0] == pytest.approx(work / stretch * np.expm1(hazard / 3600 * stretch))


def test_without_any_nothing_is_added() -> None:
    run = Distribution.lognormal(3600, 0.3)
    run_s, expected = one(run, hazard=0.0)
    assert run_s[0].tolist() == list(run.quantiles)
    assert expected[0] == 0


def test_a_long_run_that_saves_nothing_is_hopeless_and_still_a_number() -> None:
    run_s, expected = one(Distribution.exactly(1e7), hazard=3.0, checkpoint_s=0.0)
    assert expected[0] == MOST_INTERRUPTIONS
    assert np.isfinite(run_s).all()
    assert 1e7 < 10 * run_s[0, I05] < run_s[0, I95] <= 1e7 + LONGEST_S


def test_attempts_that_mostly_fail_take_their_many_hours_give_or_take() -> None:
    run_s, expected = one(Distribution.exactly(36000), hazard=1.0, checkpoint_s=0.0, restart_s=0.0)
    attempts_h = np.expm1(10.0)
    assert expected[0] == pytest.approx(attempts_h)
    # As good as exponential: the chance to get through is the same at every attempt.
    for level in (I05, I50, I95):
        exact_h = -np.log(1 - LEVELS[level]) * attempts_h
        assert run_s[0, level] == pytest.approx(3600 * exact_h, rel=0.02)
    assert prob_below(run_s, 600 * 3600.0)[0] < 0.05
    bill = CostRegressor().fit({"run_s": [], "usd_per_h": []}, [])
    cost = bill.predict_distribution({"run_s": run_s, "usd_per_h": np.asarray([2.0])})
    assert cost[0] == pytest.approx(run_s[0] / 1800)


@pytest.mark.parametrize("hours", [1200, 2400, 24000])
def test_a_thousand_interruptions_are_counted_as_such(hours) -> None:
    work = hours * 3600.0
    run_s, expected = one(Distribution.exactly(work), hazard=1.0, checkpoint_s=1800.0)
    count = 2 * hours * np.expm1(0.5)
    assert expected[0] == pytest.approx(count)
    each_s = 3600 - 1800 / np.expm1(0.5) + 3600 * np.expm1(100 / 3600)
    assert run_s[0, I50] == pytest.approx(work + count * each_s, rel=1e-3)
    sd_s = each_s * np.sqrt(count * np.exp(0.5))
    assert run_s[0, I95] - run_s[0, I50] == pytest.approx(Z[I95] * sd_s, rel=0.05)


@pytest.mark.parametrize("hazard", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("checkpoint_s", [0.0, 60.0, 20_000.0])
def test_more_work_never_takes_less_whatever_interrupts_it(hazard, checkpoint_s) -> None:
    work = np.geomspace(10.0, 1e9, 2000)
    run_s, expected = interrupted(
        work[:, None] * np.exp(0.3 * np.asarray(Z)),
        per_h=np.full(len(work), hazard),
        checkpoint_interval_s=np.full(len(work), checkpoint_s),
    )
    assert np.isfinite(run_s).all()
    assert (np.diff(run_s, axis=0) >= -1e-9 * run_s[1:]).all()
    assert (np.diff(expected) >= -1e-9 * expected[1:]).all()


def test_failures_before_successes_are_those_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    for successes, odds in ((40.0, 0.05), (1.0, 1.7), (5.0, 3.0), (200.0, 0.4), (1e4, 0.02)):
        drawn = rng.negative_binomial(successes, 1 / (1 + odds), 200_000)
        ours = failures(np.asarray([successes]), np.asarray([odds]))[0]
        theirs = np.quantile(drawn, LEVELS, method="inverted_cdf")
        assert np.abs(ours - theirs).max() < 1.2


@settings(max_examples=50)
@given(
    median=st.floats(1, 1e6),
    spread=st.floats(0, 1.5),
    hazard=st.floats(0, 3),
    checkpoint_s=st.floats(0, 1e5),
)
def test_they_only_ever_make_a_run_longer(median, spread, hazard, checkpoint_s) -> None:
    run = Distribution.lognormal(median, spread)
    run_s, _ = one(run, hazard=hazard, checkpoint_s=checkpoint_s)
    assert np.isfinite(run_s).all()
    assert (np.diff(run_s[0]) >= 0).all()
    assert mean(run_s)[0] >= run.mean * (1 - 1e-9)
