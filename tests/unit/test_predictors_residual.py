"""The residual model: xgboost's trees walked in numpy, trusted as far as held-out jobs allow."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import xgboost

from predictors.features import table
from predictors.residual import (
    FEATURES,
    LARGEST_CORRECTION,
    MAX_SHRINK,
    MIN_ROWS,
    ResidualModel,
    fit_residual,
    sensitivity,
)
from predictors.step_time import StepTimeRegressor
from predictors.trees import TreeEnsemble


def pooled(jobs: int = 8, rows: int = 10, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (jobs * rows, len(FEATURES)))
    return X, [f"f-{i // rows}" for i in range(jobs * rows)], rng


def learn(X, miss, jobs, seed: int = 0) -> ResidualModel | None:
    """Of steps that follow the correction in full."""
    return fit_residual(X, miss, np.ones(len(X)), jobs, seed=seed)


@pytest.mark.parametrize(("depth", "base"), [(1, 0.0), (3, 0.0), (6, 0.5), (6, None)])
@pytest.mark.parametrize("missing", [False, True])
def test_the_numpy_walker_equals_xgboost(depth, base, missing) -> None:
    rng = np.random.default_rng(depth)
    X = rng.standard_normal((300, 5))
    y = X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2]) + 0.1 * rng.standard_normal(300)
    if missing:
        X[rng.random(X.shape) < 0.15] = np.nan
    params = {"max_depth": depth, "eta": 0.3, "nthread": 1, "seed": 1}
    if base is not None:
        params["base_score"] = base
    booster = xgboost.train(params, xgboost.DMatrix(X, y), num_boost_round=40)
    kept = json.loads(json.dumps(TreeEnsemble.from_xgboost(booster).to_json(), allow_nan=False))
    asked = np.concatenate([X, rng.standard_normal((500, 5)), np.round(X, 1)])
    found = TreeEnsemble.from_json(kept).predict(asked)
    np.testing.assert_allclose(found, booster.predict(xgboost.DMatrix(asked)), rtol=1e-5, atol=1e-6)


def test_the_walker_refuses_other_columns() -> None:
    X = np.random.default_rng(0).standard_normal((50, 3))
    booster = xgboost.train({"max_depth": 2, "nthread": 1}, xgboost.DMatrix(X, X[:, 0]), 3)
    with pytest.raises(ValueError, match=r"need shape \(n, 3\)"):
        TreeEnsemble.from_xgboost(booster).predict(X[:, :2])


def test_learns_what_every_job_shares_and_shrinks_it() -> None:
    X, jobs, rng = pooled()
    miss = 0.3 * (X[:, 0] > 0) + 0.02 * rng.standard_normal(len(X))
    model = learn(X, miss, jobs)
    assert model is not None
    assert 0 < model.shrink <= MAX_SHRINK
    fresh = rng.uniform(-2, 2, (200, len(FEATURES)))
    true = 0.3 * (fresh[:, 0] > 0)
    found = model.predict(fresh)
    assert np.abs(true - found).mean() < 0.5 * np.abs(true).mean()
    assert np.abs(found).max() < 0.3


def test_noise_is_not_learned() -> None:
    trusted = []
    for seed in range(6):
        X, jobs, rng = pooled(seed=seed)
        model = learn(X, 0.1 * rng.standard_normal(len(X)), jobs)
        trusted.append(0.0 if model is None else np.abs(model.predict(X)).mean())
    assert np.mean(trusted) < 0.02
    assert min(trusted) == 0.0


def test_what_contradicts_itself_between_jobs_is_not_learned() -> None:
    corrections = []
    for seed in range(6):
        X, jobs, _ = pooled(seed=seed)
        sign = np.where(np.asarray([int(j[2:]) for j in jobs]) % 2 == 0, 1.0, -1.0)
        model = learn(X, 0.3 * sign * (X[:, 0] > 0), jobs)
        corrections.append(0.0 if model is None else np.abs(model.predict(X)).max())
    assert np.median(corrections) < 0.06


def test_too_few_rows_or_jobs_teach_nothing() -> None:
    X, jobs, _ = pooled(jobs=4, rows=MIN_ROWS // 4)
    miss = 0.3 * (X[:, 0] > 0)
    assert learn(X, miss, jobs) is not None
    assert learn(X[1:], miss[1:], jobs[1:]) is None
    assert learn(X, miss, ["f-a", "f-b"] * (len(miss) // 2)) is None


def test_rows_that_do_not_follow_the_correction_teach_nothing_of_it() -> None:
    X, jobs, rng = pooled(rows=20)
    follows = np.where(rng.random(len(X)) < 0.5, 1.0, 0.1)
    true = 0.3 * (X[:, 0] > 0)
    noise = np.where(follows < 1, 0.1 * rng.standard_normal(len(X)), 0.0)
    model = fit_residual(X, follows * true + noise, follows, jobs)
    assert model is not None
    assert np.abs(model.predict(X) - true).mean() < 0.5 * true.mean()
    assert fit_residual(X, true, np.zeros(len(X)), jobs) is None


def test_one_worker_alone_is_left_as_the_law_has_it() -> None:
    columns = {"workers": [1.0, 2.0, 4.0], "micro_batch": [8.0] * 3, "nodes": [1.0, 1.0, 2.0]}
    model = StepTimeRegressor().fit(columns, [0.1, 0.12, 0.2])
    follows = sensitivity(model.theta_[:1], table(columns), model.scale_)[0]
    assert follows[0] == 0
    assert np.all((follows[1:] > 0) & (follows[1:] < 1.1))


def test_the_correction_is_bounded_and_repeatable() -> None:
    X, jobs, _ = pooled()
    miss = 5.0 * (X[:, 0] > 0)
    a, b = learn(X, miss, jobs, seed=3), learn(X, miss, jobs, seed=3)
    assert a is not None
    assert a == b
    assert np.abs(a.predict(X)).max() <= LARGEST_CORRECTION


def test_survives_json_and_predicts_without_xgboost(tmp_path) -> None:
    X, jobs, _ = pooled()
    model = learn(X, 0.3 * (X[:, 0] > 0), jobs)
    assert model is not None
    kept = tmp_path / "residual.json"
    kept.write_text(json.dumps({"model": model.to_json(), "X": X[:3].tolist()}, allow_nan=False))
    code = f"""
import json, sys, pathlib
import numpy as np
from predictors.residual import ResidualModel
data = json.loads(pathlib.Path({str(kept)!r}).read_text())
values = ResidualModel.from_json(data["model"]).predict(np.asarray(data["X"]))
print(json.dumps([values.tolist(), "xgboost" in sys.modules]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    values, imported = json.loads(out.stdout)
    assert not imported
    np.testing.assert_array_equal(values, model.predict(X[:3]))


def test_json_of_other_features_is_refused() -> None:
    X, jobs, _ = pooled()
    model = learn(X, 0.3 * (X[:, 0] > 0), jobs)
    assert model is not None
    data = {**model.to_json(), "features": ["workers"]}
    with pytest.raises(ValueError, match="not a residual model of these features"):
        ResidualModel.from_json(data)
