"""What interruptions add to a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I50, I95, LEVELS, Distribution, mean
from predictors.interruptions import MAX_INTERRUPTIONS, failures, interrupted


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
    assert expected[0] == MAX_INTERRUPTIONS
    assert np.isfinite(run_s).all()
    assert run_s[0, I50] > 1e7


def test_failures_before_successes_are_those_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    for successes, odds in ((40.0, 0.05), (1.0, 1.7), (5.0, 3.0), (200.0, 0.4)):
        drawn = rng.negative_binomial(successes, 1 / (1 + odds), 200_000)
        ours = failures(np.asarray([successes]), np.asarray([odds]))[0]
        theirs = np.quantile(drawn, LEVELS, method="inverted_cdf")
        assert np.abs(ours - theirs).max() <= 1


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
