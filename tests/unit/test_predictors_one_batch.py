"""Jobs probed at one small batch only: wide intervals that hold what is true, unlike a full range.

Jobs are drawn from what is believed of them, in units of a step at the largest of their batches,
which may be up to 64 times the one that is probed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from planner.core.distribution import I05, I50, I95
from predictors.features import COLUMNS
from predictors.prior import opened, physics
from predictors.step_law import Scale, step
from predictors.step_time import StepTimeRegressor

JOBS = 40
LOW = 8.0


def table(rows: Sequence[tuple[int, int, float]]) -> dict[str, np.ndarray]:
    """Of (workers, nodes, micro-batch), on GPUs."""
    whole = [(w, n, np.ceil(w / n), m, 1.0, 1.0, 0.0) for w, n, m in rows]
    return {
        name: np.asarray(column) for name, column in zip(COLUMNS, np.transpose(whole), strict=True)
    }


PLACED = [(1, 1), (2, 1), (4, 1), (2, 2), (8, 2), (16, 4)]


def inside(probed: Sequence[tuple[int, int, float]], *, octaves: int) -> np.ndarray:
    """Of each job the share of steps within the 90 % interval, `octaves` above what was probed."""
    rng = np.random.default_rng(5)
    prior = physics()
    root = np.linalg.cholesky(prior.covariance)
    probes = table(probed)
    asked = table([(w, n, LOW * 2**octaves) for w, n in PLACED])
    shares = []
    for _ in range(JOBS):
        theta = (prior.mean + root @ rng.standard_normal(len(root)))[None]
        scale = Scale(step_s=0.5, micro_batch=LOW * 2 ** rng.uniform(2, 6))
        noise = np.exp(0.04 * rng.standard_normal(len(probed)))
        model = StepTimeRegressor(members=24).fit(probes, step(theta, probes, scale)[0] * noise)
        q, true = model.predict_distribution(asked), step(theta, asked, scale)[0]
        shares.append(np.mean((q[:, I05] < true) & (true < q[:, I95])))
    return np.asarray(shares)


@pytest.mark.parametrize("octaves", [0, 2, 4])
@pytest.mark.parametrize(
    "probed", [[(1, 1, LOW)], [(1, 1, LOW), (2, 1, LOW)]], ids=["one probe", "1 and 2 workers"]
)
def test_what_one_small_batch_tells_is_honest(probed, octaves: int) -> None:
    assert inside(probed, octaves=octaves).mean() > 0.85


def test_a_range_of_batches_closes_what_one_leaves_open() -> None:
    prior = physics()
    spread = [
        np.trace(opened(prior, table([(1, 1, LOW), (1, 1, LOW * 2**span)])).covariance)
        for span in (0, 1, 2, 3, 6)
    ]
    assert np.all(np.diff(spread) <= 0)
    assert spread[0] > 1.5 * spread[-1]
    assert spread[-1] == spread[-2] == np.trace(prior.covariance)


def test_one_batch_leaves_other_workers_wider_than_a_range_does() -> None:
    asked = table([(8, 2, LOW), (8, 2, 16 * LOW)])
    one = StepTimeRegressor().fit(table([(1, 1, LOW)]), [0.1]).predict_distribution(asked)
    both = table([(1, 1, LOW), (1, 1, 16 * LOW)])
    more = StepTimeRegressor().fit(both, [0.1, 0.8]).predict_distribution(asked)
    assert np.all(np.log(one[:, I95] / one[:, I05]) > 1.5 * np.log(more[:, I95] / more[:, I05]))
    assert one[1, I50] > one[0, I50]
