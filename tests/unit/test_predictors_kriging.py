"""Sums of Gaussian processes: conditioning, outliers, and how wide intervals must be."""

from __future__ import annotations

import numpy as np
import pytest

from predictors import kriging
from predictors.kriging import Block, Posterior


def block(n: int = 40, *, noise: float = 0.05) -> Block:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 4, n)
    near = np.exp(-((x[:, None] - x[None]) ** 2) / 2)
    y = np.sin(x) + rng.normal(0, noise, n)
    return Block(parts=np.stack([near, np.eye(n)]), y=y)


def test_probes_may_come_with_the_other_rows_or_later() -> None:
    one = block()
    whole = one.covariance(np.log([1.0, 0.05]))
    first, probe, asked = np.arange(30), np.arange(30, 33), np.arange(33, 40)
    known = np.concatenate([first, probe])
    at_once = Posterior.of(whole[np.ix_(known, known)], one.y[known]).at(
        whole[np.ix_(asked, known)], whole[np.ix_(asked, asked)]
    )
    rest = np.concatenate([asked, probe])
    mean, covariance = Posterior.of(whole[np.ix_(first, first)], one.y[first]).at(
        whole[np.ix_(rest, first)], whole[np.ix_(rest, rest)]
    )
    later = kriging.given(mean, covariance, np.arange(len(rest)) >= len(asked), one.y[probe])
    for a, b in zip(at_once, later, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_a_left_out_row_is_seen_as_by_a_fit_without_it() -> None:
    one = block()
    whole = one.covariance(np.log([1.0, 0.05]))
    error, covariance = Posterior.of(whole, one.y).left_out(np.asarray([7]))
    rest = np.delete(np.arange(40), 7)
    mean, left = Posterior.of(whole[np.ix_(rest, rest)], one.y[rest]).at(
        whole[np.ix_([7], rest)], whole[np.ix_([7], [7])]
    )
    assert error == pytest.approx(one.y[[7]] - mean, abs=1e-6)
    assert covariance == pytest.approx(left, abs=1e-6)


def test_the_noise_is_found() -> None:
    log_sd, _ = kriging.fit_scales([block()], [0.5, 0.1], iterations=30)
    assert np.exp(log_sd[1]) == pytest.approx(0.05, rel=0.6)


def test_an_outlier_weighs_less_and_is_not_taken_for_noise_of_all() -> None:
    clean = block()
    odd = Block(parts=clean.parts, y=clean.y + 3.0 * (np.arange(40) == 20))
    log_sd, factors = kriging.fit_scales([odd], [0.5, 0.1], iterations=30)
    assert np.exp(log_sd[1]) < 0.5 * 3.0 / np.sqrt(40)
    assert np.argmax(factors[0]) == 20
    assert np.median(factors[0]) == 1.0


def test_intervals_are_widened_as_far_as_held_out_jobs_ask() -> None:
    scores = [np.full(3, 1.645 * s) for s in np.linspace(0.1, 1.5, 40)]
    assert kriging.widening(scores, groups=40) == pytest.approx(1.36, rel=0.05)
    assert kriging.widening(scores[:3], groups=3) == 1.0


def test_labels_are_alike_where_they_are_equal() -> None:
    found = kriging.alike(np.asarray(["a", "b"], object), np.asarray(["b", "c", "a"], object))
    assert found.tolist() == [[0, 0, 1], [1, 0, 0]]
