"""A job's probes of which one was slowed: not believed where that shows, else a wider interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from planner.core.distribution import I05, I95
from planner.core.types import ProbeResult
from predictors.job import ProbedJobPredictor
from predictors.step_time import StepTimeRegressor
from tests.support.syntheticjobs import WORK, SyntheticJob, configuration

QUIET = SyntheticJob(drift=0.0)
SHAPES = [(1, 16), (1, 32), (1, 64), (2, 16), (2, 32)]
ASKED = [(1, 8), (1, 16), (1, 64), (2, 8), (2, 32), (4, 16)]


def probes(shapes: Sequence[tuple[int, int]], gpu: str | None = None) -> list[ProbeResult]:
    rng = np.random.default_rng(0)
    return [QUIET.probe(rng, *shape, gpu=gpu) for shape in shapes]


def times(probe: ProbeResult, factor: float) -> ProbeResult:
    return replace(probe, step_time_s=tuple(factor * t for t in probe.step_time_s))


def intervals(rows: Sequence[ProbeResult], gpu: str | None = None) -> np.ndarray:
    """5 % and 95 % quantiles of a step over the true one, shape (asked, 2)."""
    configs = [configuration(*shape, gpu=gpu) for shape in ASKED]
    found = ProbedJobPredictor().fit(rows).predict(configs, WORK)
    return np.asarray(
        [
            [
                q / QUIET.step_s(w, m, knobs.accumulation)
                for q in (p.step_time_s.p05, p.step_time_s.p95)
            ]
            for (w, m), (_, knobs), p in zip(ASKED, configs, found, strict=True)
        ]
    )


@pytest.mark.parametrize("gpu", [None, "T4"])
@pytest.mark.parametrize("slow", range(len(SHAPES)))
def test_one_probe_ten_times_slower_than_four_others_moves_nothing_and_widens(
    slow: int, gpu: str | None
) -> None:
    good = probes(SHAPES, gpu)
    bad = intervals([times(p, 10) if i == slow else p for i, p in enumerate(good)], gpu)
    assert np.all(bad[:, 0] < 1)
    assert np.all(bad[:, 1] > 1)
    without = intervals([p for i, p in enumerate(good) if i != slow], gpu)
    assert np.all(bad[:, 1] / bad[:, 0] > without[:, 1] / without[:, 0])


@pytest.mark.parametrize(
    "shapes",
    [[(1, 16), (1, 64)], [(1, 64), (1, 16)], [(1, 16), (1, 64), (2, 16)], [(1, 16), (2, 16)]],
    ids=str,
)
def test_where_nobody_can_tell_which_is_right_the_interval_reaches_both(
    shapes: list[tuple[int, int]],
) -> None:
    *good, last = probes(shapes)
    bad = intervals([*good, times(last, 10)])
    assert np.all(bad[:, 0] < 1)
    assert np.all(bad[:, 1] > 1)


def test_workers_that_are_slow_together_are_believed() -> None:
    costly = replace(QUIET, sync_s=3.0)
    rng = np.random.default_rng(0)
    rows = [costly.probe(rng, *shape) for shape in SHAPES]
    predictor = ProbedJobPredictor().fit(rows)
    found = predictor.predict([configuration(2, 16)], WORK)[0].step_time_s
    true = costly.step_s(2, 16, configuration(2, 16)[1].accumulation)
    assert found.p50 == pytest.approx(true, rel=0.1)
    assert found.p95 / found.p05 < 2


def test_a_second_slow_probe_is_found_after_the_first() -> None:
    good = probes([*SHAPES, (2, 64)])
    bad = intervals([times(p, {1: 10.0, 4: 6.0}.get(i, 1.0)) for i, p in enumerate(good)])
    assert np.all(bad[:, 0] < 1)
    assert np.all(bad[:, 1] > 1)


@pytest.mark.parametrize("factor", [10.0, 1000.0])
def test_a_row_that_is_not_believed_has_no_say_in_the_fit(factor: float) -> None:
    columns = {
        "workers": [1, 1, 2, 2, 2, 4],
        "nodes": [1, 1, 1, 2, 2, 1],
        "micro_batch": [32, 1024, 32, 32, 1024, 32],
    }
    y = np.array([0.043, 0.702, 0.049, factor * 0.104, 0.722, 0.058])
    model = StepTimeRegressor(members=8).fit(columns, y)
    assert np.flatnonzero(model.doubt_.wild).tolist() == [3]
    kept = [0, 1, 2, 4, 5]
    without = StepTimeRegressor(members=8).fit(
        {name: np.asarray(column)[kept] for name, column in columns.items()}, y[kept]
    )
    np.testing.assert_allclose(model.predict(columns), without.predict(columns), rtol=1e-9)
    q, calm = (fit.predict_distribution(columns) for fit in (model, without))
    assert np.all(q[:, I95] / q[:, I05] > calm[:, I95] / calm[:, I05])


def test_doubts_are_kept_as_json() -> None:
    columns = {"workers": [1, 1, 2, 2, 1], "micro_batch": [8, 16, 8, 32, 32]}
    y = [0.1, 0.17, 0.12, 0.32, 3.0]
    model = StepTimeRegressor(members=8).fit(columns, y)
    assert model.doubt_.wild.tolist() == [False, False, False, False, True]
    again = StepTimeRegressor.from_json(model.to_json())
    expected = model.predict_distribution(columns)
    np.testing.assert_allclose(again.predict_distribution(columns), expected, rtol=1e-9)
