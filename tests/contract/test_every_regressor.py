"""What every public regressor makes of bad rows: a `ValueError` that says what is wrong and where.

A new regressor joins by one entry of `REGRESSORS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from planner.core.distribution import I50, LEVELS
from predictors import machine_rows, scale_out
from predictors.base import DistributionRegressor
from predictors.cost import CostRegressor
from predictors.estimator import NotFittedError
from predictors.llm import LlmRegressor
from predictors.llm_law import COLUMNS as LLM_COLUMNS
from predictors.machines import MachineRegressor
from predictors.memory import MemoryRegressor
from predictors.run_time import RunTimeRegressor
from predictors.scale_out import ScaleOutRegressor
from predictors.step_time import StepTimeRegressor

Columns = dict[str, Any]


@dataclass(frozen=True)
class Regressor:
    """One of them, with rows that are fine.

    `size` names a column of positive numbers, or of plain ones where none is `positive`;
    `from_nothing` tells that it can be fitted to no rows at all.
    """

    make: Callable[[], DistributionRegressor]
    rows: Callable[[], tuple[Columns, np.ndarray]]
    size: str
    unit: str
    positive: bool = True
    from_nothing: bool = False


def _steps() -> tuple[Columns, np.ndarray]:
    columns = {"workers": [1.0, 1.0, 2.0, 2.0], "micro_batch": [8.0, 32.0, 8.0, 32.0]}
    return {k: np.asarray(v) for k, v in columns.items()}, np.asarray([0.1, 0.3, 0.12, 0.35])


def _peaks() -> tuple[Columns, np.ndarray]:
    return _steps()[0], np.asarray([1e9, 2e9, 1.1e9, 2.2e9])


def _machines() -> tuple[Columns, np.ndarray]:
    batches = np.asarray([16.0, 32.0, 64.0])
    described = machine_rows.describe(batches, 0.01 + 0.001 * batches, batches)
    X = machine_rows.rows(described, "T4", "V100", job="a", model="a")
    return X, 0.4 * np.exp(described["log_here"])


def _systems() -> tuple[Columns, np.ndarray]:
    gpus = np.asarray([8.0, 16.0, 64.0])
    columns = {"gpus": gpus, "nodes": np.ceil(gpus / 8), "global_batch": 32 * gpus}
    return scale_out.rows(columns, benchmark="resnet", gpu="A100", family="f"), 1e4 / gpus


def _language() -> tuple[Columns, np.ndarray]:
    shape = (1, 1, 8, 1, 1024, 16, 12, 1024, 1, 1, 1)
    X = {name: np.full(3, float(v)) for name, v in zip(LLM_COLUMNS, shape, strict=True)}
    X["num_layers"] = np.asarray([12.0, 16.0, 24.0])
    return X, np.asarray([0.5, 0.65, 0.95])


def _runs() -> tuple[Columns, np.ndarray]:
    X, step_s = _steps()
    whole = {"steps": np.full(4, 50.0), "start_s": np.full(4, 5.0), "rest_s": np.full(4, 1.0)}
    work = {"samples": np.full(4, 6400.0), "epochs": np.full(4, 3.0)}
    return {**X, **whole, **work}, 6.0 + 50 * step_s


def _bills() -> tuple[Columns, np.ndarray]:
    run_s, usd_per_h = np.asarray([600.0, 3600.0, 7200.0]), np.asarray([1.0, 2.0, 0.5])
    return {"run_s": run_s, "usd_per_h": usd_per_h}, run_s / 3600 * usd_per_h * 1.02


REGRESSORS = {
    "step time": Regressor(lambda: StepTimeRegressor(members=4), _steps, "micro_batch", "s"),
    "memory": Regressor(lambda: MemoryRegressor(members=4), _peaks, "micro_batch", "bytes"),
    "machines": Regressor(MachineRegressor, _machines, "slope", "s", positive=False),
    "scale-out": Regressor(ScaleOutRegressor, _systems, "gpus", "s"),
    "run time": Regressor(RunTimeRegressor, _runs, "micro_batch", "s"),
    "cost": Regressor(
        CostRegressor, _bills, "run_s", "US dollars", positive=False, from_nothing=True
    ),
    "language models": Regressor(LlmRegressor, _language, "hidden_size", "s"),
}


@pytest.fixture(params=REGRESSORS)
def regressor(request: pytest.FixtureRequest) -> Regressor:
    return REGRESSORS[request.param]


def changed(values: np.ndarray, row: int, value: float) -> np.ndarray:
    result = np.array(values, dtype=float)
    result[row] = value
    return result


def test_good_rows_give_positive_ordered_quantiles(regressor: Regressor) -> None:
    X, y = regressor.rows()
    model = regressor.make().fit(X, y)
    quantiles = model.predict_distribution(X)
    assert quantiles.shape == (len(y), len(LEVELS))
    assert np.all(np.isfinite(quantiles) & (quantiles > 0))
    assert np.all(np.diff(quantiles, axis=1) >= 0)
    assert model.predict(X) == pytest.approx(quantiles[:, I50], rel=0.05)


@pytest.mark.parametrize("bad", [nan, inf, -inf, 0.0, -1.0])
def test_a_target_that_cannot_be_is_refused_with_its_row_and_unit(
    regressor: Regressor, bad: float
) -> None:
    X, y = regressor.rows()
    with pytest.raises(ValueError, match=f"finite, in {regressor.unit}: row 1 is {bad:g}; leave"):
        regressor.make().fit(X, changed(y, 1, bad))


def test_a_size_that_cannot_be_is_refused_with_its_column_and_row(regressor: Regressor) -> None:
    X, y = regressor.rows()
    fitted = regressor.make().fit(X, y)
    for bad in (nan, inf, -inf, *((0.0, -1.0) if regressor.positive else ())):
        wrong = {**X, regressor.size: changed(X[regressor.size], 2, bad)}
        for refuse in (lambda rows: regressor.make().fit(rows, y), fitted.predict):
            with pytest.raises(ValueError, match=rf"{regressor.size}.*numbers: row 2 is {bad:g};"):
                refuse(wrong)


def test_nothing_asked_gets_no_answer(regressor: Regressor) -> None:
    X, y = regressor.rows()
    none = {name: column[:0] for name, column in X.items()}
    found = regressor.make().fit(X, y).predict_distribution(none)
    assert found.shape == (0, len(LEVELS))


def test_a_missing_column_is_named(regressor: Regressor) -> None:
    X, y = regressor.rows()
    less = {name: column for name, column in X.items() if name != regressor.size}
    with pytest.raises(ValueError, match=f"missing columns .*{regressor.size}.*there are"):
        regressor.make().fit(less, y)


def test_a_column_of_another_length_is_refused(regressor: Regressor) -> None:
    X, y = regressor.rows()
    with pytest.raises(ValueError, match="length"):
        regressor.make().fit({**X, regressor.size: X[regressor.size][:-1]}, y)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_targets_of_another_length_are_refused(regressor: Regressor, count: int) -> None:
    X, y = regressor.rows()
    with pytest.raises(ValueError, match=r"y needs shape \(\d,\), one value for each row"):
        regressor.make().fit(X, np.resize(y, count))


def test_nothing_to_fit_is_refused_where_nothing_is_known_beforehand(regressor: Regressor) -> None:
    X, y = regressor.rows()
    none = {name: column[:0] for name, column in X.items()}
    if regressor.from_nothing:
        assert np.all(regressor.make().fit(none, y[:0]).predict(X) > 0)
        return
    with pytest.raises(ValueError, match="at least one row"):
        regressor.make().fit(none, y[:0])


def test_nothing_is_predicted_before_it_is_fitted(regressor: Regressor) -> None:
    X, _ = regressor.rows()
    for ask in (regressor.make().predict, regressor.make().predict_distribution):
        with pytest.raises(NotFittedError, match="call fit first"):
            ask(X)
