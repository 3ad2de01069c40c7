"""Where the steady state of a probe begins."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.services.estimating.steady import steady_from


def noisy(level: float, count: int, seed: int = 0, spread: float = 0.02) -> list[float]:
    dice = random.Random(seed)
    return [level * dice.lognormvariate(0, spread) for _ in range(count)]


def test_at_least_the_asked_steps_are_dropped() -> None:
    assert steady_from(noisy(0.1, 35), 5) >= 5


@pytest.mark.parametrize("slow_steps", [7, 10, 14])
def test_a_longer_warm_up_is_found(slow_steps: int) -> None:
    times = noisy(0.3, slow_steps) + noisy(0.1, 40 - slow_steps, seed=1)
    assert steady_from(times, 5) == pytest.approx(slow_steps, abs=1)


def test_a_slow_decay_is_dropped_in_pieces() -> None:
    times = [0.1 * (1 + 2 * 0.7**i) for i in range(40)]
    assert steady_from(times, 2) >= 6


def test_a_steady_series_loses_little_more_than_its_warm_up() -> None:
    dropped = [steady_from(noisy(0.1, 35, seed=s), 5) for s in range(200)]
    assert sum(d > 5 for d in dropped) <= 40


def test_one_hiccup_is_no_change_of_level() -> None:
    times = noisy(0.1, 35)
    times[12] = 1.0
    assert steady_from(times, 5) <= 13


def test_a_change_in_the_second_half_belongs_to_the_job() -> None:
    times = noisy(0.1, 30) + noisy(0.2, 10, seed=1)
    assert steady_from(times, 5) == 5


def test_batches_that_were_loaded_ahead_are_dropped() -> None:
    times = noisy(0.05, 8) + noisy(0.1, 30, seed=1)
    assert steady_from(times, 3) == pytest.approx(8, abs=1)


def test_a_machine_that_becomes_busy_half_way_is_no_warm_up() -> None:
    times = noisy(0.1, 19) + noisy(0.15, 16, seed=1)
    assert steady_from(times, 5) == 5


def test_levels_that_hardly_differ_are_one() -> None:
    times = [0.1015] * 12 + [0.1] * 20
    assert steady_from(times, 0) == 0


@given(st.lists(st.floats(1e-6, 1e3), max_size=60), st.integers(0, 100))
def test_something_is_always_left(times: list[float], warmup: int) -> None:
    dropped = steady_from(times, warmup)
    assert 0 <= dropped <= len(times)
    assert not times or len(times) - dropped >= 1
