"""`StepTimeRegressor`: recovers laws, stays sane beyond its probes, follows scikit-learn."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95
from predictors.base import DistributionRegressor
from predictors.features import COLUMNS
from predictors.prior import bundled
from predictors.residual import ResidualModel
from predictors.step_law import PARAMETERS, Scale, terms
from predictors.step_time import StepTimeRegressor

TRUTH = dict(
    fixed=0.15,
    per_sample=0.9,
    contention=0.3,
    load=0.05,
    sharing=0.1,
    sync_local=0.1,
    local_growth=1.0,
    sync_remote=0.5,
    growth=0.37,
    latency=0.01,
    pair=0.3,
    beyond=1.0,
    crowd=0.25,
    overlap=1.0,
)
SCALE = Scale(step_s=0.5, micro_batch=32.0)


def grid(*, on_cpu: float = 0.0, loader_workers: float = 1.0, nodes=(1, 2, 4)) -> dict:
    rows = [
        (n * p, n, p, m, k, loader_workers, on_cpu)
        for n in nodes
        for p in (1, 2, 4)
        for m in (8, 16, 32, 64)
        for k in (1, 2)
    ]
    values = np.asarray(rows, dtype=float)
    return {name: values[:, i] for i, name in enumerate(COLUMNS)}


def law(columns: dict, **changed: float) -> np.ndarray:
    theta = np.log([{**TRUTH, **changed}[name] for name in PARAMETERS])
    return terms(theta[None, :], columns, SCALE).step[0]


def rows(columns: dict, index) -> dict:
    return {name: column[index] for name, column in columns.items()}


def some_trees() -> ResidualModel:
    """A large correction that differs between placements."""
    trees = bundled().residual
    assert trees is not None
    return replace(trees, shrink=0.8)


@pytest.fixture(scope="module")
def probed() -> tuple[dict, np.ndarray]:
    columns = rows(grid(on_cpu=1.0, nodes=(1,)), [0, 6, 8, 14, 16])
    noise = np.exp(0.01 * np.random.default_rng(3).standard_normal(5))
    return columns, law(columns) * noise


def test_recovers_a_law_of_its_kind_from_a_spread_of_probes() -> None:
    columns = grid()
    true = law(columns)
    w, m, k = columns["workers"], columns["micro_batch"], columns["accumulation"]
    seen = (k == 1) & ((w <= 2) & np.isin(m, (8, 64)) | (w == 4) & (m == 8))
    model = StepTimeRegressor().fit(rows(columns, seen), true[seen])
    error = np.abs(model.predict(columns) / true - 1)
    assert error[~seen].mean() < 0.05
    assert error[~seen].max() < 0.2


@pytest.mark.parametrize("contention", [0.05, 0.5, 1.0])
def test_workers_that_slow_each_other_on_a_cpu_are_seen_in_other_micro_batches(contention) -> None:
    columns = grid(on_cpu=1.0, loader_workers=0.0, nodes=(1,))
    true = law(columns, contention=contention, sync_local=0.02)
    two = (columns["workers"] <= 2) & (columns["accumulation"] == 1)
    seen = two & np.isin(columns["micro_batch"], (16, 64))
    model = StepTimeRegressor().fit(rows(columns, seen), true[seen])
    error = np.abs(model.predict(rows(columns, two)) / true[two] - 1)
    assert error.max() < 0.08


def test_a_measured_wait_tells_loading_from_computing() -> None:
    columns = grid(on_cpu=1.0, loader_workers=0.0, nodes=(1,))
    seen = (columns["workers"] == 1) & (columns["accumulation"] == 1)
    probes = rows(columns, seen)
    true = law(columns, load=0.5)[seen]
    found = terms(np.log([{**TRUTH, "load": 0.5}[n] for n in PARAMETERS])[None], probes, SCALE)
    told = StepTimeRegressor().fit({**probes, "loader_wait_s": found.exposed_load[0]}, true)
    share = told.terms(probes).exposed_load / told.terms(probes).step
    assert share == pytest.approx(found.exposed_load[0] / true, abs=0.03)
    guessed = StepTimeRegressor().fit(probes, true).terms(probes)
    assert np.all(guessed.exposed_load / guessed.step < share - 0.05)


def test_one_probe_is_enough_and_its_own_configuration_is_the_surest(probed) -> None:
    columns, step_s = probed
    model = StepTimeRegressor().fit(rows(columns, [2]), step_s[[2]])
    q = model.predict_distribution(rows(columns, [2, 4]))
    assert q[0, I50] == pytest.approx(step_s[2], rel=0.02)
    own, other = np.log(q[:, I95] / q[:, I05])
    assert other > 1.1 * own
    assert q[1, I05] < step_s[4] < q[1, I95]


def test_the_interval_widens_with_the_distance_from_the_probes(probed) -> None:
    columns, step_s = probed
    model = StepTimeRegressor().fit(columns, step_s)
    asked = {"workers": [4.0, 8, 16, 64], "micro_batch": [8.0] * 4, "on_cpu": [1.0] * 4}
    q = model.predict_distribution(asked)
    width = np.log(q[:, I95] / q[:, I05])
    assert np.all(np.diff(width) > 0)


@given(
    seed=st.integers(0, 10_000),
    contention=st.floats(0.01, 1.5),
    load=st.floats(0.01, 2.0),
    sync=st.floats(0.01, 2.0),
)
@settings(max_examples=25, deadline=None)
def test_more_work_takes_longer_whatever_the_probes_say(seed, contention, load, sync) -> None:
    columns = grid(nodes=(1, 2))
    true = law(columns, contention=contention, load=load, sync_local=sync)
    rng = np.random.default_rng(seed)
    seen = rng.choice(len(true), size=5, replace=False)
    noisy = true[seen] * np.exp(0.5 * rng.standard_normal(5))
    model = StepTimeRegressor(members=8, residual=some_trees()).fit(rows(columns, seen), noisy)
    more = np.asarray([1.0, 1.5, 2, 3, 4, 6, 8, 16, 64])
    placed = {"workers": np.full(9, 4.0), "nodes": np.full(9, 2.0)}
    by_accumulation = model.predict(
        {**placed, "micro_batch": np.full(9, 16.0), "accumulation": more}
    )
    assert np.all(np.diff(by_accumulation) > 0)
    by_batch = model.predict({**placed, "micro_batch": 4 * more})
    assert np.all(np.diff(by_batch) > 0)
    assert by_batch[0] > 0


@pytest.mark.parametrize("row", range(5))
def test_a_probe_ten_times_slower_than_the_rest_is_not_believed(probed, row) -> None:
    columns, step_s = probed
    wild = step_s.copy()
    wild[row] *= 10
    calm = StepTimeRegressor().fit(columns, step_s).predict(columns)
    q = StepTimeRegressor().fit(columns, wild).predict_distribution(columns)
    others = np.arange(5) != row
    assert np.median(q[others, I50] / calm[others]) == pytest.approx(1.0, abs=0.35)
    assert np.all(np.isfinite(q))


def test_a_probe_that_more_work_outruns_by_far_does_not_spoil_the_others() -> None:
    columns = grid(nodes=(1, 2))
    seen = (columns["accumulation"] == 1) & np.isin(columns["micro_batch"], (8, 64))
    probes, true = rows(columns, seen), law(columns)[seen]
    wild = np.where((probes["workers"] == 2) & (probes["micro_batch"] == 8), 10 * true, true)
    calm, disturbed = (StepTimeRegressor().fit(probes, y).predict(probes) for y in (true, wild))
    assert np.abs(disturbed / calm - 1).max() < 0.15


@pytest.mark.parametrize("helpers", [8.0, np.nan])
def test_a_probe_that_loads_its_own_samples_is_not_outrun_by_one_with_helpers(helpers) -> None:
    columns = {
        "workers": [1.0] * 4,
        "micro_batch": [16.0, 32.0, 64.0, 128.0],
        "loader_workers": [0.0, 0.0, helpers, helpers],
    }
    step_s = [0.56, 1.12, 0.32, 0.64]
    model = StepTimeRegressor().fit(columns, step_s)
    assert not model.doubt_.wild.any()
    if np.isfinite(helpers):  # else the law takes them for one process
        q = model.predict_distribution(columns)
        assert np.all((q[:, I05] < step_s) & (step_s < q[:, I95]))
    columns["loader_workers"] = [2.0, 8.0, 2.0, 8.0]
    wild = StepTimeRegressor().fit(columns, [0.5, 1.0, 0.2, 0.4]).doubt_.wild
    assert wild.tolist() == [True, True, False, False]


def test_probes_that_contradict_each_other_widen_every_interval(probed) -> None:
    columns, step_s = probed
    twice = {name: np.concatenate([c, c]) for name, c in columns.items()}
    asked = {"workers": [2.0, 4.0], "micro_batch": [16.0, 64.0], "on_cpu": [1.0, 1.0]}
    agreed, torn = (
        StepTimeRegressor().fit(twice, np.concatenate([step_s, step_s * by])) for by in (1.0, 3.0)
    )
    widths = [
        np.log(q[:, I95] / q[:, I05])
        for q in (agreed.predict_distribution(asked), torn.predict_distribution(asked))
    ]
    assert np.all(widths[1] > 1.5 * widths[0])


def test_probes_at_one_micro_batch_leave_others_open(probed) -> None:
    columns = rows(grid(on_cpu=1.0, nodes=(1,)), [8, 16, 0])
    columns["micro_batch"] = np.full(3, 16.0)
    step_s = law(columns)
    one = StepTimeRegressor().fit(columns, step_s)
    q = one.predict_distribution(
        {"workers": [1.0, 1.0], "micro_batch": [16.0, 256.0], "on_cpu": [1.0, 1.0]}
    )
    width = np.log(q[:, I95] / q[:, I05])
    assert width[1] > 2 * width[0]
    assert q[1, I50] > q[0, I50]


@pytest.mark.parametrize("prior", ["T4", "never seen"])
def test_far_beyond_the_probes_the_interval_is_wide_and_positive(prior) -> None:
    columns = {"workers": [1.0, 1.0, 2.0], "micro_batch": [8.0, 64.0, 8.0]}
    model = StepTimeRegressor(prior=bundled().of(prior)).fit(columns, [0.1, 0.5, 0.12])
    q = model.predict_distribution(
        {"workers": [4096.0], "nodes": [512.0], "micro_batch": [8.0], "workers_per_node": [8.0]}
    )
    assert np.all(q > 0)
    assert np.log(q[0, I95] / q[0, I05]) > np.log(2)


def test_growth_with_the_workers_saturates(probed) -> None:
    model = StepTimeRegressor().fit(*probed)
    far = model.predict(
        {"workers": [64.0, 1024.0], "nodes": [16.0, 256.0], "micro_batch": [8.0, 8.0]}
    )
    assert far[1] < 1.3 * far[0]


def test_a_frame_an_array_and_a_mapping_are_the_same_table(probed) -> None:
    columns, step_s = probed
    frame = pd.DataFrame(columns)
    plain = frame.to_numpy()
    structured = frame.to_records(index=False)
    expected = StepTimeRegressor().fit(columns, step_s).predict_distribution(columns)
    for table in (frame, plain, structured, frame[sorted(frame.columns)]):
        found = StepTimeRegressor().fit(table, pd.Series(step_s)).predict_distribution(table)
        np.testing.assert_array_equal(found, expected)


def test_the_same_seed_gives_the_same_distribution_and_another_one_a_similar(probed) -> None:
    columns, step_s = probed
    a, b, c = (
        StepTimeRegressor(random_state=s).fit(columns, step_s).predict_distribution(columns)
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_allclose(a, c, rtol=0.1)


def test_repeated_probes_count_as_evidence_and_do_not_break_the_fit(probed) -> None:
    columns, step_s = probed
    twice = {name: np.concatenate([c, c]) for name, c in columns.items()}
    once = StepTimeRegressor().fit(columns, step_s).predict_distribution(columns)
    both = StepTimeRegressor().fit(twice, np.tile(step_s, 2)).predict_distribution(columns)
    assert np.all(both[:, I95] / both[:, I05] < once[:, I95] / once[:, I05])
    np.testing.assert_allclose(both[:, I50], once[:, I50], rtol=0.02)


def test_a_weak_row_pulls_less(probed) -> None:
    columns, step_s = probed
    wrong = step_s.copy()
    wrong[0] *= 1.3
    weight = np.asarray([0.02, 1, 1, 1, 1])
    full = StepTimeRegressor().fit(columns, wrong).predict(columns)[0]
    weak = StepTimeRegressor().fit(columns, wrong, weight).predict(columns)[0]
    assert abs(weak - step_s[0]) < abs(full - step_s[0])


def test_leaving_one_out_does_not_see_the_row_nor_change_the_model(probed) -> None:
    columns, step_s = probed
    model = StepTimeRegressor().fit(columns, step_s)
    before = model.to_json()
    left = model.leave_one_out(columns, step_s)
    changed = step_s.copy()
    changed[3] *= 1.5
    again = model.leave_one_out(columns, changed)
    assert again[3] == pytest.approx(left[3], rel=0.03)  # only the unit of the priors moved
    assert abs(again[0] / left[0] - 1) > 0.001
    assert model.to_json() == before


def test_survives_json(probed) -> None:
    columns, step_s = probed
    columns = {**columns, "loader_workers": np.full(5, np.nan)}
    model = StepTimeRegressor().fit(columns, step_s)
    kept = StepTimeRegressor.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(
        kept.predict_distribution(columns), model.predict_distribution(columns)
    )


def test_foreign_json_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'memory/1'"):
        StepTimeRegressor.from_json({"kind": "memory/1"})


@pytest.mark.parametrize(
    ("columns", "step_s", "message"),
    [
        ({"workers": [1.0]}, [1.0], "missing columns"),
        ({"workers": [1.0, 2.0], "micro_batch": [1.0]}, [1.0], "differ in length"),
        ({"workers": [0.0], "micro_batch": [1.0]}, [1.0], "'workers' must hold positive"),
        ({"workers": [1.0], "micro_batch": [np.nan]}, [1.0], "'micro_batch' must hold positive"),
        ({"workers": [1.0], "micro_batch": [1.0]}, [0.0], "positive and finite, in s"),
        ({"workers": [1.0], "micro_batch": [1.0]}, [np.inf], "positive and finite, in s"),
        ({"workers": [1.0], "micro_batch": [1.0]}, [1.0, 2.0], r"shape \(1,\)"),
        ({"workers": [], "micro_batch": []}, [], "at least one row"),
        (np.ones((3, 2)), [1.0, 1.0, 1.0], "columns workers, nodes"),
    ],
)
def test_bad_rows_are_refused_by_name(columns, step_s, message) -> None:
    with pytest.raises(ValueError, match=message):
        StepTimeRegressor().fit(columns, step_s)


def test_follows_the_rules_of_scikit_learn(probed) -> None:
    from sklearn.base import clone, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.estimator_checks import (
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    )
    from sklearn.utils.validation import check_is_fitted

    model = StepTimeRegressor(members=16, random_state=7)
    for check in (
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    ):
        check("StepTimeRegressor", model)
    assert is_regressor(model)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(probed[0])
    fitted = model.fit(*probed)
    assert fitted is model
    check_is_fitted(fitted)
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    assert not hasattr(fresh, "theta_")
    assert isinstance(model, DistributionRegressor)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        StepTimeRegressor().set_params(depth=3)


def test_heavy_libraries_stay_out_of_fitting_and_predicting() -> None:
    code = """
import sys
from predictors.step_time import StepTimeRegressor
X = {"workers": [1.0, 2.0], "micro_batch": [8.0, 8.0]}
StepTimeRegressor().fit(X, [0.1, 0.12]).predict_distribution(X)
print([m for m in ("sklearn", "xgboost", "scipy", "pandas", "torch") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def sync_of(**changed: float):
    """Exposed synchronisation, s, over placements of one worker or more a node."""

    def of(workers: float, nodes: float, busiest: float) -> float:
        columns = {
            n: np.asarray([v])
            for n, v in zip(COLUMNS, (workers, nodes, busiest, 8.0, 1, 1, 0), strict=True)
        }
        theta = np.log([{**TRUTH, "load": 1e-6, **changed}[name] for name in PARAMETERS])
        return float(terms(theta[None, :], columns, SCALE).sync[0, 0])

    return of


def test_small_gradients_grow_more_with_the_nodes_than_large_ones() -> None:
    small, large = sync_of(sync_remote=0.01), sync_of(sync_remote=3.0)
    assert small(16, 16, 1) / small(3, 3, 1) > 1.5 * large(16, 16, 1) / large(3, 3, 1)


def test_what_crosses_nodes_goes_by_the_workers_of_an_average_node() -> None:
    of = sync_of(sync_local=1e-6)
    assert of(8, 4, 2) == pytest.approx(of(8, 4, 4), rel=1e-3)
    assert of(16, 4, 4) > of(8, 4, 4)


def test_loading_ahead_goes_on_while_gradients_are_sent() -> None:
    columns = rows(grid(loader_workers=1.0, nodes=(4,)), [3])
    bound = law(columns, load=20.0, sync_remote=1e-6)
    assert law(columns, load=20.0, sync_remote=0.5) == pytest.approx(bound, rel=0.01)
