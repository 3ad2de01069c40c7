"""`MemoryRegressor`: peaks and their parts, bounded by trials that ran out of memory."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95
from predictors.memory import MemoryRegressor
from predictors.memory_law import StateBytes
from predictors.memory_sharding import predict_sharded

GB = 1e9
STATE = StateBytes(weights=0.4 * GB, gradients=0.4 * GB, optimizer=0.8 * GB)


def at(*micro_batches: float, workers: float = 1.0, on_cpu: float = 0.0) -> dict:
    return {
        "workers": np.full(len(micro_batches), workers),
        "micro_batch": np.asarray(micro_batches, dtype=float),
        "on_cpu": np.full(len(micro_batches), on_cpu),
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


def test_a_single_probe_knows_more_where_the_sizes_of_the_state_are_told() -> None:
    asked = at(16, 128)
    known = MemoryRegressor().fit(at(16), [1.9 * GB], state=STATE).predict_distribution(asked)
    blind = MemoryRegressor().fit(at(16), [1.9 * GB]).predict_distribution(asked)
    truth = 1.2 * GB + 0.7 * GB * np.asarray([1, 8])  # activations are what is left
    for q in (known, blind):
        assert np.all((q[:, I05] < truth * [1, 0.8]) & (truth * [1, 0.6] < q[:, I95]))
    width = [np.log(q[1, I95] / q[1, I05]) for q in (known, blind)]
    assert width[0] < width[1]


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
    inside, n = 0, 60
    for seed in range(n):
        rng = np.random.default_rng(seed)
        fixed, slope = 10 ** rng.uniform(8.5, 9.7), 10 ** rng.uniform(6.0, 8.0)

        def peak(m, fixed=fixed, slope=slope, rng=rng):
            m = np.asarray(m, dtype=float)
            return (fixed + slope * m) * np.exp(noise * rng.standard_normal(len(m)))

        model = MemoryRegressor(members=32).fit(at(8, 32), peak([8, 32]))
        q = model.predict_distribution(at(64))[0]
        inside += bool(q[I05] <= peak([64])[0] <= q[I95])
    # Of 60 at 90 %, fewer than 48 has a probability under 1 %. More is only cautious.
    assert inside >= 48


def test_leaving_one_out_is_a_line_through_the_others() -> None:
    y = line([16, 64, 128])
    left = MemoryRegressor().leave_one_out(at(16, 64, 128), y)
    np.testing.assert_allclose(left, y, rtol=0.15)
    with pytest.raises(ValueError, match="at least two rows"):
        MemoryRegressor().leave_one_out(at(16), [1 * GB])


# ---- parts -------------------------------------------------------------------------------------


def test_two_probes_and_the_state_tell_the_parts_of_a_peak() -> None:
    context, per_sample = 0.05 * GB, 0.02 * GB
    y = context + STATE.weights + STATE.optimizer + per_sample * np.asarray([64, 256])
    model = MemoryRegressor().fit(at(64, 256), y, state=STATE)
    parts = model.parts(at(64, 256, 512))
    assert np.all(parts.weights == STATE.weights)
    assert np.all(parts.optimizer == STATE.optimizer)
    np.testing.assert_allclose(parts.activations[0], per_sample * np.asarray([64, 256, 512]), 0.1)
    np.testing.assert_allclose(parts.peak[0], model.predict(at(64, 256, 512)), rtol=0.03)
    assert parts.context[0, 0] + parts.gradients[0, 0] < 0.3 * GB
    assert np.all(parts.synchronisation == 0)


def test_small_batches_cost_nothing_while_the_optimisers_step_is_the_peak() -> None:
    def peak(m):
        step = STATE.gradients * 1.1
        return 1.22 * GB + np.maximum(step, 0.02 * GB * np.asarray(m, dtype=float))

    model = MemoryRegressor().fit(at(4, 8, 128), peak([4, 8, 128]), state=STATE)
    asked = at(4, 16, 64, 256)
    np.testing.assert_allclose(model.predict(asked), peak([4, 16, 64, 256]), rtol=0.12)
    parts = model.parts(asked)
    assert parts.activations[0, 0] == 0
    assert parts.gradients[0, 0] >= STATE.gradients


def test_data_parallel_workers_hold_buckets_as_large_as_the_gradients() -> None:
    model = MemoryRegressor().fit(at(16, 128), 1.3 * GB + line([16, 128]), state=STATE)
    alone, several = model.predict(at(64)), model.predict(at(64, workers=8.0))
    assert several - alone == pytest.approx(STATE.gradients, rel=0.3)


def test_sizes_that_contradict_the_peak_are_left_out(fitted) -> None:
    huge = StateBytes(weights=9 * GB, gradients=9 * GB, optimizer=18 * GB)
    model = MemoryRegressor().fit(at(16, 128), line([16, 128]), state=huge)
    assert not model.state_.known
    np.testing.assert_array_equal(model.predict(at(64)), fitted.predict(at(64)))
    with pytest.raises(ValueError, match="weights must be bytes"):
        StateBytes(weights=float("nan"))


# ---- other machines, sharded state ---------------------------------------------------------------


def test_another_gpu_takes_as_much_but_is_less_certain(fitted) -> None:
    there = fitted.carried_over(on_cpu=False)
    here, other = fitted.predict_distribution(at(64)), there.predict_distribution(at(64))
    assert other[0, I50] == pytest.approx(here[0, I50], rel=0.02)
    assert other[0, I05] < here[0, I05]
    assert other[0, I95] > here[0, I95]


def test_the_interpreter_of_a_cpu_does_not_carry_over_to_a_gpu() -> None:
    y = 0.7 * GB + 1.2 * GB + 0.02 * GB * np.asarray([32.0, 128.0])
    cpu = MemoryRegressor().fit(at(32, 128, on_cpu=1.0), y, state=STATE)
    gpu = cpu.carried_over(on_cpu=False)
    q = gpu.predict_distribution(at(128))[0]
    assert q[I50] < cpu.predict(at(128, on_cpu=1.0))[0] - 0.25 * GB
    assert q[I05] < 1.2 * GB + 0.02 * GB * 128 < q[I95]
    assert q[I95] > 1.5 * q[I05]


def test_running_out_on_a_small_gpu_says_nothing_of_a_larger_one() -> None:
    model = MemoryRegressor().fit(at(16, 32, 64), [3 * GB, 4 * GB, 6 * GB], [False, False, True])
    risk = model.p_oom(at(64, 64), [6 * GB, 40 * GB])
    assert risk[0] >= 0.97
    assert risk[1] < 0.05
    assert model.carried_over(on_cpu=False).p_oom(at(64), [40 * GB])[0] < 0.05


@pytest.mark.parametrize("workers", [2.0, 8.0, 64.0])
def test_each_stage_of_sharding_takes_less_than_the_one_before(workers) -> None:
    model = MemoryRegressor().fit(at(32, 128), 1.5 * GB + line([32, 128]), state=STATE)
    asked = at(64, workers=workers)
    stages = [
        predict_sharded(model, asked, stage=stage, largest_unit_bytes=0.02 * GB)[0]
        for stage in (1, 2, 3)
    ]
    whole = model.predict(asked)[0]
    assert whole > stages[0][I50] > stages[2][I50]
    assert stages[0][I50] >= stages[1][I50] >= stages[2][I50]
    held = (STATE.weights + STATE.optimizer) * (1 - 1 / workers)
    assert stages[2][I50] > whole - held - 2.5 * STATE.gradients  # activations are not sharded
    assert np.log(stages[2][I95] / stages[2][I05]) > 0.4  # nothing of it was ever measured


def test_sharding_needs_to_know_what_there_is_to_shard(fitted) -> None:
    with pytest.raises(ValueError, match="are not known"):
        predict_sharded(fitted, at(8, workers=4.0), stage=3, largest_unit_bytes=1e6)
    with pytest.raises(ValueError, match="stage must be"):
        predict_sharded(fitted, at(8), stage=4, largest_unit_bytes=1e6)
    with pytest.raises(ValueError, match="largest_unit_bytes must be"):
        predict_sharded(fitted, at(8), stage=3, largest_unit_bytes=-1.0)
    with pytest.raises(ValueError, match="not fitted"):
        predict_sharded(MemoryRegressor(), at(8), stage=3, largest_unit_bytes=1e6)


# ---- P(out of memory) ----------------------------------------------------------------------------


def test_what_fitted_once_is_not_called_a_risk() -> None:
    capacity = line(128) * 1.06 + 0.5 * GB  # nearly full, but it ran
    unknown = MemoryRegressor().fit(at(16, 128), line([16, 128]))
    known = MemoryRegressor().fit(at(16, 128), line([16, 128]), capacity_bytes=[capacity] * 2)
    assert unknown.p_oom(at(128), [capacity])[0] > 0.05
    assert np.all(known.p_oom(at(64, 128), [capacity] * 2) <= 0.03)
    assert known.p_oom(at(128), [0.9 * capacity])[0] > 0.5  # but less memory is another matter
    assert known.p_oom(at(256), [capacity])[0] > 0.9


def test_trials_that_fitted_and_failed_alike_leave_it_open() -> None:
    y, failed = [5 * GB, 8 * GB], [False, True]
    model = MemoryRegressor().fit(at(64, 64), y, failed, capacity_bytes=[8 * GB, 8 * GB])
    assert model.p_oom(at(64), [8 * GB])[0] == pytest.approx(0.5)


def test_a_gpus_context_counts_beside_what_the_counter_tells(fitted) -> None:
    bare = MemoryRegressor().fit(at(16, 128), line([16, 128]), context_bytes=0.0)
    capacity = [1.1 * line(128)]
    assert bare.p_oom(at(128), capacity)[0] < 0.1 < fitted.p_oom(at(128), capacity)[0]
    np.testing.assert_array_equal(bare.predict(at(64)), fitted.predict(at(64)))


# ---- whatever is given ---------------------------------------------------------------------------

sizes = st.floats(1e6, 1e11)
batches = st.integers(1, 4096)
rows = st.lists(st.tuples(batches, sizes, st.booleans(), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(rows, st.floats(0.0, 0.9), st.sampled_from([0.0, 1.0]))
def test_memory_grows_with_the_batch_and_risk_with_it_and_with_less_memory(
    trials, share, on_cpu
) -> None:
    trials[0] = (*trials[0][:2], False, False)
    x = at(*(m for m, *_ in trials), on_cpu=on_cpu)
    x["workers"] = np.asarray([1.0 + several for *_, several in trials])
    y = [size for _, size, *_ in trials]
    third = share * min(y) / 3
    model = MemoryRegressor(members=16).fit(
        x,
        y,
        [failed for _, _, failed, _ in trials],
        state=StateBytes(weights=third, gradients=third, optimizer=third),
        capacity_bytes=[1.1 * size for size in y],
    )
    asked = at(*(2.0 ** np.arange(0, 14)))
    q = model.predict_distribution(asked)
    assert np.all(np.isfinite(q) & (q > 0))
    assert np.all(np.diff(q, axis=0) >= -1e-6 * q[1:])
    assert np.all(np.diff(q, axis=1) >= 0)
    risks = [model.p_oom(asked, np.full(14, c)) for c in (0.3 * max(y), max(y), 3 * max(y))]
    assert np.all((np.diff(risks, axis=1) >= -1e-9) & (np.asarray(risks)[:, 1:] <= 1))
    assert np.all(np.diff(risks, axis=0) <= 1e-9)


def test_a_larger_batch_that_took_less_widens_everything() -> None:
    agree = MemoryRegressor().fit(at(16, 64), [4 * GB, 5 * GB])
    contradict = MemoryRegressor().fit(at(16, 64), [5 * GB, 4 * GB])
    q = [m.predict_distribution(at(16, 32, 64, 128)) for m in (agree, contradict)]
    width = [np.log(x[:, I95] / x[:, I05]) for x in q]
    assert np.all(width[1][:3] > 1.5 * width[0][:3])
    assert np.all(np.diff(q[1][:, I50]) >= 0)
    assert q[1][0, I95] > 5 * GB
    assert q[1][2, I05] < 4 * GB


def test_all_trials_at_one_batch_know_no_slope() -> None:
    model = MemoryRegressor().fit(at(32, 32, 32), [3.6 * GB, 3.5 * GB, 3.7 * GB])
    q = model.predict_distribution(at(32, 256))
    own, far = np.log(q[:, I95] / q[:, I05])
    assert far > 5 * own


def test_the_interval_widens_with_the_distance_from_what_was_tried(fitted) -> None:
    q = fitted.predict_distribution(at(128, 1024, 8192))
    width = np.log(q[:, I95] / q[:, I05])
    assert width[0] < width[1] < width[2]


def test_a_batch_far_beyond_memory_does_not_fit(fitted) -> None:
    assert fitted.p_oom(at(100_000), [16 * GB])[0] > 0.99


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
    for peak in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="in bytes"):
            MemoryRegressor().fit(at(8), [peak])
    for batch in (-1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="positive numbers"):
            MemoryRegressor().fit(at(batch), [1.0])
    with pytest.raises(ValueError, match="capacity_bytes needs shape"):
        MemoryRegressor().fit(at(8), [1.0], capacity_bytes=[1.0, 2.0])
    with pytest.raises(ValueError, match="at least one trial"):
        MemoryRegressor().fit(at(8), [1.0], [True])
    with pytest.raises(ValueError, match="out_of_memory needs shape"):
        MemoryRegressor().fit(at(8), [1.0], [True, False])
    with pytest.raises(ValueError, match="not fitted"):
        MemoryRegressor().predict(at(8))
