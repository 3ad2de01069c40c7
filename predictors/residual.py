"""What the step law misses in the same way in every job: a small, shrunken set of trees.

Trained on log(measured / law) of rows that the law had not seen, over dimensionless features
(`FEATURES`), never on raw ones: trees pooled over raw features of different jobs were several times
worse than no learning at all. How far to trust it is measured: whole jobs are held out, and the
correction is multiplied by the factor that would have been best on them, between 0 and `MAX_SHRINK`
(stacking with one non-negative weight, Breiman 1996, doi:10.1007/BF00117832). A factor of 0 leaves
the law alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors import step_law
from predictors.features import Table
from predictors.step_law import Scale
from predictors.trees import TreeEnsemble

if TYPE_CHECKING:
    from planner.core.distribution import Array

FEATURES: tuple[str, ...] = (
    "log2_workers_per_node",
    "log2_nodes",
    "log2_micro_batch_over_typical",
    "log2_accumulation",
    "on_cpu",
    "compute_over_step",
    "load_over_step",
    "sync_over_step",
)
MIN_ROWS = 40
"""Fewest pooled rows that a residual is learned from."""
MIN_JOBS = 4
"""Fewest jobs; less cannot be held out one after another."""
MAX_SHRINK = 0.8
LARGEST_CORRECTION = 0.7
"""Bound of the log correction: a factor of 2."""
_FOLDS = 5
_ROUNDS = 60
_PARAMS = {
    "max_depth": 3,
    "eta": 0.1,
    "min_child_weight": 5.0,
    "lambda": 5.0,
    "subsample": 0.8,
    "base_score": 0.0,
    "nthread": 1,
    "objective": "reg:squarederror",
    "verbosity": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualModel:
    """A fitted correction of the log step time.

    Attributes:
        trees: Over `FEATURES`.
        shrink: Factor on their sum, from held-out jobs.
        rows: Rows it was trained on.
        jobs: Jobs they came from.
    """

    trees: TreeEnsemble
    shrink: float
    rows: int
    jobs: int

    def predict(self, X: Array) -> Array:
        """Log correction, to be added to the law's log step time; shape (n,)."""
        raw = self.shrink * self.trees.predict(X)
        return np.clip(raw, -LARGEST_CORRECTION, LARGEST_CORRECTION)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "residual/1",
            "features": list(FEATURES),
            "shrink": self.shrink,
            "rows": self.rows,
            "jobs": self.jobs,
            "trees": self.trees.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResidualModel:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document, or one over other features.
        """
        if data.get("kind") != "residual/1" or tuple(data["features"]) != FEATURES:
            raise ValueError(f"not a residual model of these features: {data.get('kind')!r}")
        return cls(
            trees=TreeEnsemble.from_json(data["trees"]),
            shrink=float(data["shrink"]),
            rows=int(data["rows"]),
            jobs=int(data["jobs"]),
        )


def features(theta: Array, columns: Table, scale: Scale) -> Array:
    """The features, shape (n, len(FEATURES)).

    Only ratios and shares of the fitted law: nothing that tells one job's seconds from another's.

    Args:
        theta: One law for all rows, shape (1, parameters), or one for each, (n, parameters).
        columns: Configurations.
        scale: Unit of the parameters.
    """
    found = step_law.terms(theta, columns, scale)
    row = np.arange(found.step.shape[1])
    law = np.minimum(row, len(theta) - 1)
    step = found.step[law, row]
    return np.stack(
        [
            np.log2(columns["workers_per_node"]),
            np.log2(columns["nodes"]),
            np.log2(columns["micro_batch"] / scale.micro_batch),
            np.log2(columns["accumulation"]),
            columns["on_cpu"],
            found.compute[law, row] / step,
            found.load[law, row] / step,
            found.sync[law, row] / step,
        ],
        axis=1,
    )


def fit_residual(
    X: Array, miss: Array, jobs: Sequence[str], *, seed: int = 0
) -> ResidualModel | None:
    """Learn the correction, or None when there is too little, or nothing, to learn.

    Args:
        X: Features, shape (n, len(FEATURES)).
        miss: log(measured / law), the law not having seen the row, shape (n,).
        jobs: The job of every row; jobs weigh the same whatever their number of rows.
        seed: For the trees' subsampling and the folds.
    """
    names, job = np.unique(np.asarray(jobs), return_inverse=True)
    if len(miss) < MIN_ROWS or len(names) < MIN_JOBS:
        return None
    weight = (len(miss) / len(names) / np.bincount(job))[job]
    miss = np.clip(miss, -LARGEST_CORRECTION, LARGEST_CORRECTION)
    fold = np.random.default_rng(seed).permutation(len(names))[job] % min(_FOLDS, len(names))
    held_out = np.zeros(len(miss))
    for i in np.unique(fold):
        out = fold == i
        held_out[out] = _train(X[~out], miss[~out], weight[~out], seed).predict(X[out])
    agreement = float(np.sum(weight * held_out * miss))
    size = float(np.sum(weight * held_out**2))
    shrink = float(np.clip(agreement / size, 0.0, MAX_SHRINK)) if size > 0 else 0.0
    if shrink == 0.0:
        return None
    return ResidualModel(
        trees=_train(X, miss, weight, seed), shrink=shrink, rows=len(miss), jobs=len(names)
    )


def _train(X: Array, y: Array, weight: Array, seed: int) -> TreeEnsemble:
    import xgboost

    data = xgboost.DMatrix(X, label=y, weight=weight)
    booster = xgboost.train({**_PARAMS, "seed": seed}, data, num_boost_round=_ROUNDS)
    return TreeEnsemble.from_xgboost(booster)
