"""Time to train on larger systems, from the smallest one of a family and from other families."""

from __future__ import annotations

import json

import numpy as np
import pytest

from planner.core.distribution import I05, I95
from predictors import bundled, scale_out
from predictors.estimator import NotFittedError
from predictors.scale_out import ScaleOutRegressor

GPUS = np.asarray([8.0, 16.0, 64.0, 256.0])


def law(gpus: np.ndarray, work: float) -> np.ndarray:
    return work / gpus * (1 + 0.05 * np.log2(gpus / 8))


def family(name: str, *, gpus=GPUS, benchmark="resnet"):  # type: ignore[no-untyped-def]
    columns = {"gpus": gpus, "nodes": np.ceil(gpus / 8), "global_batch": 32 * gpus}
    return scale_out.rows(columns, benchmark=benchmark, gpu="A100", family=name)


def known(families: int = 6):  # type: ignore[no-untyped-def]
    works = np.geomspace(5e3, 2e4, families)
    X = scale_out.joined([family(f"f{i}") for i in range(families)])
    return X, np.concatenate([law(GPUS, w) for w in works])


def asked(benchmark: str = "resnet", first_s: float = 1e4):  # type: ignore[no-untyped-def]
    X, y = known()
    first = family("new", gpus=GPUS[:1], benchmark=benchmark)
    model = ScaleOutRegressor().fit(scale_out.joined([X, first]), np.append(y, first_s))
    return model.predict_distribution(family("new", gpus=GPUS[1:], benchmark=benchmark))


def test_growth_of_other_families_is_carried_over_to_the_level_of_this_one() -> None:
    found = asked(first_s=law(GPUS[:1], 1.5e4)[0])
    assert found[:, 10] == pytest.approx(law(GPUS[1:], 1.5e4), rel=0.15)


def test_an_unknown_benchmark_has_a_sensible_time_and_a_wider_interval() -> None:
    same, other = asked(first_s=1.5e3), asked("new", first_s=1.5e3)
    assert np.all(np.diff(other[:, 10]) < 0)
    assert np.all(other[:, I95] / other[:, I05] > same[:, I95] / same[:, I05])
    assert np.all(other[:, 10] > 1.5e3 * 8 / GPUS[1:] / 2)


def test_growth_beyond_all_known_sizes_stays_near_amdahls() -> None:
    """Systems of 2 to 8 times as many GPUs lose 1 % of a run each; 512 times as many are asked."""
    sizes = np.asarray([8.0, 16.0, 64.0])
    X = scale_out.joined([family(f"f{i}", gpus=sizes) for i in range(6)])
    serial = 0.01
    growth = serial * sizes / 8 + 1 - serial
    y = np.concatenate([w * 8 / sizes * growth for w in np.geomspace(5e2, 2e3, 6)])
    asked = family("f3", gpus=np.asarray([4096.0]))
    first = y[9]
    amdahl = first * (serial + (1 - serial) / 512)
    (found,) = ScaleOutRegressor().fit(X, y).predict_distribution(asked)
    assert found[I05] < amdahl < found[I95]


def test_missing_nodes_and_batches_are_filled_in() -> None:
    X, y = known()
    X["nodes"][:] = np.nan
    X["global_batch"][::2] = np.nan
    found = ScaleOutRegressor().fit(X, y).predict(X)
    assert found == pytest.approx(y, rel=0.5)


def test_the_bundled_scales_spare_the_fit() -> None:
    X, y = known()
    model = ScaleOutRegressor(prior=bundled.scale_out()).fit(X, y)
    assert model.predict(X) == pytest.approx(y, rel=0.2)
    again = ScaleOutRegressor().fit(X, y).to_prior()
    assert json.loads(json.dumps(again)) == again


def test_the_order_of_rows_does_not_matter() -> None:
    X, y = known(3)
    order = np.random.default_rng(0).permutation(len(y))
    mixed = {name: column[order] for name, column in X.items()}
    prior = bundled.scale_out()
    one, two = (ScaleOutRegressor(prior=prior).fit(*rows) for rows in ((X, y), (mixed, y[order])))
    assert one.predict(X) == pytest.approx(two.predict(X), rel=1e-6)


def test_what_is_no_time_or_no_count_is_refused() -> None:
    X, y = known(2)
    with pytest.raises(ValueError, match="positive"):
        ScaleOutRegressor().fit(X, -y)
    with pytest.raises(ValueError, match="gpus"):
        ScaleOutRegressor().fit({**X, "gpus": 0 * X["gpus"]}, y)
    with pytest.raises(ValueError, match="missing"):
        ScaleOutRegressor().fit({"gpus": X["gpus"]}, y)
    with pytest.raises(NotFittedError):
        ScaleOutRegressor().predict(X)
