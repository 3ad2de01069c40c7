"""What the step law misses in the same way in every job: a small, shrunken set of trees.

They correct what workers cost each other (`step_law.terms`, `log_company`), by placement and by
ratios of the fitted law (`FEATURES`), never by raw times: trees pooled over raw features of
different jobs were several times worse than no learning at all. A step of one worker stays as the
law has it, and since the correction is the same at every micro-batch, more work still takes longer.
Trained on log(measured / law) of rows that the law had not seen, divided by how much the step
follows the correction there, and weighted by its square. How far to trust it is measured: whole
jobs are held out, and the correction is multiplied by the factor that would have been best on them,
between 0 and `MAX_SHRINK` (stacking with one non-negative weight, Breiman 1996,
doi:10.1007/BF00117832). A factor of 0 leaves the law alone.
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
    "log2_workers",
    "on_cpu",
    "load_over_step",
    "sync_over_step",
)
MIN_ROWS = 40
"""Fewest pooled rows that a residual is learned from."""
MIN_JOBS = 3
"""Fewest jobs; less cannot be held out one after another."""
MAX_SHRINK = 0.8
LARGEST_CORRECTION = 0.7
"""Bound of the log correction: a factor of 2."""
_LEAST_SENSITIVITY = 0.03
"""Rows whose step follows the correction less than this teach nothing of it."""
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
        """Log correction of what workers cost each other, shape (n,)."""
        raw = self.shrink * self.trees.predict(X)
        return np.clip(raw, -LARGEST_CORRECTION, LARGEST_CORRECTION)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "residual/2",
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
        if data.get("kind") != "residual/2" or tuple(data["features"]) != FEATURES:
            raise ValueError(f"not a residual model of these features: {data.get('kind')!r}")
        return cls(
            trees=TreeEnsemble.from_json(data["trees"]),
            shrink=float(data["shrink"]),
            rows=int(data["rows"]),
            jobs=int(data["jobs"]),
        )


def features(theta: Array, columns: Table, scale: Scale) -> Array:
    """The features, shape (n, len(FEATURES)).

    Shares are those at the typical micro-batch, so that they belong to the placement.

    Args:
        theta: One law for all rows, shape (1, parameters), or one for each, (n, parameters).
        columns: Configurations.
        scale: Unit of the parameters.
    """
    rows = len(columns["workers"])
    typical = {
        **columns,
        "micro_batch": np.full(rows, scale.micro_batch),
        "accumulation": np.ones(rows),
    }
    found = step_law.terms(theta, typical, scale)
    row = np.arange(rows)
    law = np.minimum(row, len(theta) - 1)
    step = found.step[law, row]
    return np.stack(
        [
            np.log2(columns["workers_per_node"]),
            np.log2(columns["nodes"]),
            np.log2(columns["workers"]),
            columns["on_cpu"],
            found.load[law, row] / step,
            found.sync[law, row] / step,
        ],
        axis=1,
    )


def sensitivity(theta: Array, columns: Table, scale: Scale) -> Array:
    """How much the log step follows the correction, from 0 to about 1; as `step_law.terms.step`."""
    up, down = (step_law.step(theta, columns, scale, by) for by in (0.05, -0.05))
    result: Array = np.log(up / down) / 0.1
    return result


def fit_residual(
    X: Array, miss: Array, follows: Array, jobs: Sequence[str], *, seed: int = 0
) -> ResidualModel | None:
    """Learn the correction, or None when there is too little, or nothing, to learn.

    Args:
        X: Features, shape (n, len(FEATURES)).
        miss: log(measured / law), the law not having seen the row, shape (n,).
        follows: `sensitivity` of the rows, shape (n,).
        jobs: The job of every row; jobs weigh the same whatever their number of rows.
        seed: For the trees' subsampling and the folds.
    """
    told = follows >= _LEAST_SENSITIVITY
    X, miss, follows = X[told], miss[told], follows[told]
    names, job = np.unique(np.asarray(jobs)[told], return_inverse=True)
    if len(miss) < MIN_ROWS or len(names) < MIN_JOBS:
        return None
    wanted = np.clip(miss / follows, -LARGEST_CORRECTION, LARGEST_CORRECTION)
    weight = (len(miss) / len(names) / np.bincount(job, weights=follows**2))[job] * follows**2
    fold = np.random.default_rng(seed).permutation(len(names))[job] % min(_FOLDS, len(names))
    held_out = np.zeros(len(miss))
    for i in np.unique(fold):
        out = fold == i
        held_out[out] = _train(X[~out], wanted[~out], weight[~out], seed).predict(X[out])
    agreement = float(np.sum(weight * held_out * wanted))
    size = float(np.sum(weight * held_out**2))
    shrink = float(np.clip(agreement / size, 0.0, MAX_SHRINK)) if size > 0 else 0.0
    if shrink == 0.0:
        return None
    return ResidualModel(
        trees=_train(X, wanted, weight, seed), shrink=shrink, rows=len(miss), jobs=len(names)
    )


def _train(X: Array, y: Array, weight: Array, seed: int) -> TreeEnsemble:
    import xgboost

    data = xgboost.DMatrix(X, label=y, weight=weight)
    booster = xgboost.train({**_PARAMS, "seed": seed}, data, num_boost_round=_ROUNDS)
    return TreeEnsemble.from_xgboost(booster)
