"""The interval between checkpoints, against the published figures and the model it comes from."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.daly import LEAST_COSTS, checkpoint_interval_s, daly_s, young_s

FREE = {"minimum_s": 0.0, "maximum_s": math.inf}
costs_s = st.floats(0.001, 600)
hazards_per_h = st.floats(1e-5, 100)


def time_factor(tau_s: float, cost_s: float, between_s: float) -> float:
    """Expected time for each second of training, but for what a restart takes.

    Daly's complete cost function (equation 20): M exp(R/M) (exp((tau + C)/M) - 1) Ts / tau.
    """
    return between_s * math.expm1((tau_s + cost_s) / between_s) / tau_s


def best_factor(cost_s: float, between_s: float) -> float:
    """Its minimum, searched for: it falls, then rises."""
    low, high = 1e-9 * between_s, 2 * between_s
    for _ in range(300):
        third = (high - low) / 3
        a, b = low + third, high - third
        if time_factor(a, cost_s, between_s) < time_factor(b, cost_s, between_s):
            high = b
        else:
            low = a
    return time_factor((low + high) / 2, cost_s, between_s)


@pytest.mark.parametrize(
    ("between_min", "published_min"), [(24 * 60, "117"), (6 * 60, "57"), (15, "9.1")]
)
def test_the_figures_in_dalys_paper(between_min: float, published_min: str) -> None:
    """Figures 3 to 5: checkpoints of 5 min, an interruption every 24 h, 6 h and 15 min."""
    assert (
        f"{daly_s(300, between_min * 60) / 60:.{len(published_min.replace('.', ''))}g}"
        == published_min
    )


def test_youngs_interval() -> None:
    assert young_s(60, 3600 * 12) == pytest.approx(math.sqrt(2 * 60 * 43_200))


@given(cost_s=costs_s, share=st.floats(1e-6, 1.0))
def test_dalys_interval_is_next_to_the_best(cost_s: float, share: float) -> None:
    between_s = cost_s / share
    found = time_factor(daly_s(cost_s, between_s), cost_s, between_s)
    assert found <= best_factor(cost_s, between_s) * 1.002


@given(cost_s=costs_s, share=st.floats(1e-6, 1.0))
def test_dalys_interval_is_no_worse_than_youngs(cost_s: float, share: float) -> None:
    between_s = cost_s / share
    factors = [time_factor(f(cost_s, between_s), cost_s, between_s) for f in (daly_s, young_s)]
    assert factors[0] <= factors[1] * (1 + 1e-9)


@given(cost_s=costs_s, hazard=hazards_per_h)
def test_young_and_daly_agree_where_a_checkpoint_is_cheap(cost_s: float, hazard: float) -> None:
    between_s = 3600 / hazard
    if cost_s < between_s / 1000:
        assert daly_s(cost_s, between_s) == pytest.approx(young_s(cost_s, between_s), rel=0.03)


@given(cost_s=st.floats(0, 7200), hazard=st.floats(0, 1e4), workers=st.integers(1, 1000))
def test_the_bounds_hold(cost_s: float, hazard: float, workers: int) -> None:
    interval_s = checkpoint_interval_s(cost_s, hazard, workers=workers)
    assert interval_s <= 3600
    assert interval_s >= min(3600, max(30, LEAST_COSTS * cost_s))


@given(cost_s=st.floats(0, 600), more_s=st.floats(0, 600), hazard=st.floats(0, 1e4))
def test_a_dearer_checkpoint_is_never_written_more_often(
    cost_s: float, more_s: float, hazard: float
) -> None:
    cheap, dear = (checkpoint_interval_s(c, hazard, **FREE) for c in (cost_s, cost_s + more_s))
    assert dear >= cheap * (1 - 1e-12)


@given(cost_s=st.floats(0, 600), hazard=hazards_per_h, factor=st.floats(1, 1000))
def test_more_danger_never_means_fewer_checkpoints(
    cost_s: float, hazard: float, factor: float
) -> None:
    safe, risky = (checkpoint_interval_s(cost_s, h, **FREE) for h in (hazard, hazard * factor))
    assert risky <= safe * (1 + 1e-12)


@given(cost_s=costs_s, hazard=hazards_per_h, workers=st.integers(1, 64))
def test_each_worker_adds_its_hazard(cost_s: float, hazard: float, workers: int) -> None:
    many = checkpoint_interval_s(cost_s, hazard, workers=workers)
    assert many == pytest.approx(checkpoint_interval_s(cost_s, hazard * workers))


def test_without_danger_the_maximum_is_taken() -> None:
    assert checkpoint_interval_s(1.0, 0.0, maximum_s=1800) == 1800


def test_the_smallest_danger_there_is() -> None:
    assert checkpoint_interval_s(0.0, 5e-324) == checkpoint_interval_s(1.0, 1e-305) == 3600


def test_a_checkpoint_for_nothing_is_written_at_the_minimum() -> None:
    assert checkpoint_interval_s(0.0, 0.05, minimum_s=10) == 10


def test_the_maximum_goes_before_the_cost() -> None:
    assert checkpoint_interval_s(1000.0, 0.1, maximum_s=600) == 600


def test_a_usual_spot_machine() -> None:
    """One interruption in twenty hours and 2 s a checkpoint: one every nine minutes."""
    assert checkpoint_interval_s(2.0, 0.05) == pytest.approx(535.3, abs=1)


@pytest.mark.parametrize(
    ("cost_s", "hazard", "workers"),
    [(-1, 1, 1), (math.nan, 1, 1), (1, -1, 1), (1, math.inf, 1), (1, 1, 0)],
)
def test_nonsense_is_refused(cost_s: float, hazard: float, workers: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        checkpoint_interval_s(cost_s, hazard, workers=workers)
