"""`MemoryRegressor`: a line through peaks, bounded by trials that ran out of memory."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from planner.core.distribution import I05, I50, I95
from predictors.memory import MemoryRegressor

GB = 1e9


def at(*micro_batches: float, workers: float = 1.0) -> dict:
    return {
        "workers": np.full(len(micro_batches), workers),
        "micro_batch": np.asarray(micro_batches, dtype=float),
    }


def line(micro_batch) -> np.ndarray:
    return 2 * GB + 0.05 * GB * np.asarray(micro_batch, dtype=float)


@pytest.fixture(scope="module")
def fitted() -> MemoryRegressor:
    return MemoryRegressor().fit(at(16, 128), line([16, 128]))


def test_a_line_through_two_probes_holds_between_and_beyond_them(fitted) -> None:
    asked = [8, 32, 64, 256]
    np.testing.assert_allclose(fitted.predict(at(*asked)), line(asked), rtol=0.06)


def test_carries_over_to_other_worker_counts(fitted) -> None:
    found = fitted.predict(at(32, 64, workers=4.0))
    np.testing.assert_allclose(found, line([32, 64]), rtol=0.1)


def test_memory_does_not_fall_with_the_micro_batch(fitted) -> None:
    q = fitted.predict_distribution(at(*range(1, 600, 7)))
    assert np.all(np.diff(q[:, I50]) >= 0)
    assert np.all(np.diff(q, axis=1) >= 0)


def test_a_single_probe_is_sure_of_itself_only() -> None:
    one = MemoryRegressor().fit(at(32), line([32]))
    q = one.predict_distribution(at(32, 256))
    own, far = np.log(q[:, I95] / q[:, I05])
    assert q[0, I50] == pytest.approx(line(32), rel=0.01)
    assert far > 3 * own
    assert q[1, I05] < line(256) < q[1, I95]


def test_running_out_of_memory_bounds_the_line_from_below() -> None:
    flat = [3.0 * GB, 3.05 * GB]
    free = MemoryRegressor().fit(at(16, 32), flat)
    bounded = MemoryRegressor().fit(at(16, 32, 64), [*flat, 8 * GB], [False, False, True])
    assert free.predict(at(64))[0] < 4 * GB
    assert bounded.predict(at(64))[0] > free.predict(at(64))[0]
    risk = bounded.p_oom(at(16, 64, 128), np.full(3, 8 * GB))
    assert risk[0] < 0.05
    assert np.all(risk[1:] >= 0.97)


def test_a_bound_that_the_line_already_exceeds_changes_nothing(fitted) -> None:
    y = [*line([16, 128]), 16 * GB]
    bounded = MemoryRegressor().fit(at(16, 128, 512), y, [False, False, True])
    np.testing.assert_allclose(
        bounded.predict(at(16, 64, 128)), fitted.predict(at(16, 64, 128)), rtol=0.03
    )


def test_the_risk_grows_with_the_micro_batch_and_knows_its_limits(fitted) -> None:
    asked = at(16, 64, 128, 256, 512)
    risk = fitted.p_oom(asked, np.full(5, 8.4 * GB))
    assert np.all(np.diff(risk) >= 0)
    assert risk[0] < 1e-6
    assert risk[-1] > 0.99
    assert risk[2] > 0.05  # 8.4 GB at 128 fills the whole: the margin is gone
    assert np.all(fitted.p_oom(asked, np.full(5, np.inf)) == 0)
    assert np.all(fitted.p_oom(asked, np.full(5, np.nan)) == 0)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_intervals_hold_as_often_as_they_say(noise) -> None:
    inside, n = 0, 100
    for seed in range(n):
        rng = np.random.default_rng(seed)
        fixed, slope = 10 ** rng.uniform(8.5, 9.7), 10 ** rng.uniform(6.0, 8.0)

        def peak(m, fixed=fixed, slope=slope, rng=rng):
            m = np.asarray(m, dtype=float)
            return (fixed + slope * m) * np.exp(noise * rng.standard_normal(len(m)))

        model = MemoryRegressor(members=32).fit(at(8, 32), peak([8, 32]))
        q = model.predict_distribution(at(64))[0]
        inside += bool(q[I05] <= peak([64])[0] <= q[I95])
    # Of 100 at 90 %, fewer than 83 has a probability under 2 %. More is only cautious.
    assert inside >= 83


def test_leaving_one_out_is_a_line_through_the_others() -> None:
    y = line([16, 64, 128])
    left = MemoryRegressor().leave_one_out(at(16, 64, 128), y)
    np.testing.assert_allclose(left, y, rtol=0.15)
    with pytest.raises(ValueError, match="at least two rows"):
        MemoryRegressor().leave_one_out(at(16), [1 * GB])


def test_frames_and_mappings_are_the_same_table(fitted) -> None:
    frame = pd.DataFrame(at(16, 128))
    other = MemoryRegressor().fit(frame, pd.Series(line([16, 128])))
    np.testing.assert_array_equal(
        other.predict_distribution(frame), fitted.predict_distribution(at(16, 128))
    )


def test_survives_json() -> None:
    model = MemoryRegressor().fit(at(16, 32, 64), [3e9, 4e9, 8e9], [False, False, True])
    kept = MemoryRegressor.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    asked, capacity = at(8, 64, 128), np.full(3, 8e9)
    np.testing.assert_array_equal(
        kept.predict_distribution(asked), model.predict_distribution(asked)
    )
    np.testing.assert_array_equal(kept.p_oom(asked, capacity), model.p_oom(asked, capacity))
    with pytest.raises(ValueError, match="not a memory model"):
        MemoryRegressor.from_json({"kind": "trees/1"})


def test_follows_the_rules_of_scikit_learn(fitted) -> None:
    from sklearn.base import clone
    from sklearn.utils.estimator_checks import (
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
    )

    check_no_attributes_set_in_init("MemoryRegressor", fitted)
    check_parameters_default_constructible("MemoryRegressor", fitted)
    assert clone(fitted).get_params() == fitted.get_params()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="in bytes"):
        MemoryRegressor().fit(at(8), [-1.0])
    with pytest.raises(ValueError, match="out_of_memory needs shape"):
        MemoryRegressor().fit(at(8), [1.0], [True, False])
    with pytest.raises(ValueError, match="not fitted"):
        MemoryRegressor().predict(at(8))
