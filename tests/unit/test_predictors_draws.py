"""Joint draws of whole runs: what further probes could tell, with errors shared as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.syntheticjobs import WORK, SyntheticJob, configuration

from planner.core.types import ProbeResult
from predictors.job import DRAWS, ProbedJobPredictor

CONFIGS = [configuration(w, m) for w in (1, 2, 4, 8) for m in (8, 16, 32, 64) if w * m <= 64]


def probes(*shapes: tuple[int, int]) -> list[ProbeResult]:
    rng = np.random.default_rng(1)
    return [SyntheticJob().probe(rng, *shape) for shape in shapes]


@pytest.fixture(scope="module")
def fitted() -> ProbedJobPredictor:
    return ProbedJobPredictor().fit(probes((1, 64), (4, 16), (1, 8), (2, 32)))


def test_draws_centre_on_what_is_predicted_and_are_no_wider(fitted: ProbedJobPredictor) -> None:
    drawn = fitted.draws(CONFIGS, WORK)
    predicted = fitted.predict(CONFIGS, WORK)
    assert drawn.shape == (DRAWS, len(CONFIGS))
    assert np.all(drawn > 0)
    assert np.median(drawn, axis=0) == pytest.approx([p.run_s.p50 for p in predicted], rel=0.03)
    low, high = np.quantile(drawn, (0.05, 0.95), axis=0)
    width = [p.run_s.p95 / p.run_s.p05 for p in predicted]
    assert np.all(high / low <= width)


def test_what_is_far_from_every_probe_varies_more(fitted: ProbedJobPredictor) -> None:
    asked = [configuration(1, 64), configuration(8, 8)]
    near, far = np.log(fitted.draws(asked, WORK)).std(axis=0)
    assert far > 1.5 * near


def test_neighbours_share_their_error(fitted: ProbedJobPredictor) -> None:
    asked = [configuration(1, 16), configuration(1, 32), configuration(8, 8)]
    shared = np.corrcoef(np.log(fitted.draws(asked, WORK)).T)
    assert shared[0, 1] > 0.4
    assert shared[0, 1] > shared[0, 2] + 0.2


def test_a_probe_narrows_the_draws_at_its_place() -> None:
    few, asked = [(1, 64), (1, 8)], [configuration(8, 8)]
    before, after = (
        np.log(ProbedJobPredictor().fit(probes(*shapes)).draws(asked, WORK)).std()
        for shapes in (few, [*few, (8, 8)])
    )
    assert after < 0.5 * before


def test_another_kind_of_machine_is_drawn_by_itself(fitted: ProbedJobPredictor) -> None:
    asked = [configuration(1, 64), configuration(1, 64, gpu="T4"), configuration(1, 32, gpu="T4")]
    drawn = np.log(fitted.draws(asked, WORK))
    assert drawn[:, 1].std() > 0.5  # nothing is known of it
    shared = np.corrcoef(drawn.T)
    assert abs(shared[0, 1]) < 0.2
    assert shared[1, 2] > 0.9


def test_the_same_evidence_and_seed_draw_the_same(fitted: ProbedJobPredictor) -> None:
    again = ProbedJobPredictor().fit(fitted.probes_)
    assert np.array_equal(fitted.draws(CONFIGS, WORK), again.draws(CONFIGS, WORK))
    one = fitted.draws(CONFIGS[:1], WORK)
    assert one.shape == (DRAWS, 1)


def test_probes_that_contradict_each_other_leave_more_open() -> None:
    agreeing = probes((1, 64), (4, 16), (1, 8))
    slow = replace(
        agreeing[0],
        id="p-again",
        step_time_s=tuple(4 * t for t in agreeing[0].step_time_s),
    )
    asked = [configuration(2, 32)]
    calm, torn = (
        np.log(ProbedJobPredictor().fit(given).draws(asked, WORK)).std()
        for given in (agreeing, [*agreeing, slow])
    )
    assert np.isfinite(torn)
    assert torn > calm
