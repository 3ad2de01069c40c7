"""Step times on another GPU type: what other jobs showed, data sheets, and one probe there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95
from predictors import bundled, machine_rows
from predictors.estimator import NotFittedError
from predictors.machines import MachineRegressor

BATCHES = np.asarray([16.0, 32.0, 64.0, 128.0, 256.0])


def here_s(scale: float) -> np.ndarray:
    return scale * (0.01 + 0.001 * BATCHES)


def rows(scale: float, *, job: str, asked=BATCHES, pair=("T4", "V100")):  # type: ignore[no-untyped-def]
    described = machine_rows.describe(BATCHES, here_s(scale), asked)
    return machine_rows.rows(described, *pair, job=job, model=job)


def learned(ratio: float = 0.4, jobs: int = 8) -> MachineRegressor:
    scales = np.geomspace(0.2, 5, jobs)
    X = machine_rows.joined([rows(s, job=f"j{i}") for i, s in enumerate(scales)])
    noise = np.exp(np.random.default_rng(0).normal(0, 0.02, 5 * jobs))
    y = ratio * np.concatenate([here_s(s) for s in scales]) * noise
    return MachineRegressor().fit(X, y)


def test_a_ratio_that_all_jobs_share_is_found() -> None:
    found = learned().predict(rows(1.3, job="new"))
    assert found == pytest.approx(0.4 * here_s(1.3), rel=0.05)


def test_one_probe_moves_the_other_batches_with_it() -> None:
    model, asked = learned(), rows(1.3, job="new")
    probe = rows(1.3, job="new", asked=np.asarray([64.0]))
    slower = model.with_probes(probe, [0.5 * here_s(1.3)[2]])
    moved = slower.predict(asked) / model.predict(asked)
    assert np.all(moved > 1.1)
    assert moved[2] == pytest.approx(0.5 / 0.4, rel=0.08)


def test_what_a_small_batch_shows_fades_with_the_share_of_time_that_is_fixed() -> None:
    asked, first = (
        machine_rows.rows(
            machine_rows.describe(BATCHES, 0.02 + 0.001 * BATCHES, batches),
            *("T4", "V100"),
            job="new",
            model="new",
        )
        for batches in (BATCHES, BATCHES[:1])
    )
    model = learned()
    expected = model.predict(asked)
    moved = np.log(model.with_probes(first, 1.3 * expected[:1]).predict(asked) / expected)
    assert np.all(np.diff(moved) < 0)
    assert 0 < moved[-1] < 0.75 * moved[0]


def test_a_probe_narrows_the_interval_of_an_unknown_pair() -> None:
    model, pair = learned(), ("K80", "A100")
    asked, probe = (rows(1.0, job="new", asked=a, pair=pair) for a in (BATCHES, BATCHES[2:3]))
    wide = model.predict_distribution(asked)
    narrow = model.with_probes(probe, [0.001]).predict_distribution(asked)
    assert np.all(wide[:, I95] / wide[:, I05] > 3)
    assert np.all(narrow[:, I95] / narrow[:, I05] < wide[:, I95] / wide[:, I05])


def test_a_probe_of_another_pair_changes_nothing() -> None:
    model = learned()
    other = rows(1.3, job="new", asked=np.asarray([64.0]), pair=("T4", "K80"))
    asked = rows(1.3, job="new")
    assert model.with_probes(other, [9.0]).predict(asked) == pytest.approx(model.predict(asked))


def test_one_odd_job_does_not_bend_the_rest() -> None:
    scales = np.geomspace(0.2, 5, 8)
    X = machine_rows.joined([rows(s, job=f"j{i}") for i, s in enumerate(scales)])
    y = 0.4 * np.concatenate([here_s(s) for s in scales])
    y[7] *= 10
    found = MachineRegressor().fit(X, y).predict(rows(1.3, job="new"))
    assert found == pytest.approx(0.4 * here_s(1.3), rel=0.15)


def test_data_sheets_speak_where_nothing_was_measured() -> None:
    nothing = machine_rows.rows(
        machine_rows.describe([1.0], [1.0], []), "T4", "A100", job="", model=""
    )
    model = MachineRegressor(prior=bundled.machines()).fit(nothing, [])
    times = model.predict_distribution(rows(1.0, job="new", pair=("T4", "A100")))
    assert np.all(times[:, I50] < here_s(1.0))
    unknown = model.predict_distribution(rows(1.0, job="new", pair=("T4", "XYZ9")))
    assert np.all(unknown[:, I95] / unknown[:, I05] > times[:, I95] / times[:, I05])
    assert model.jobs_of("T4>A100") == 0


def test_the_bundled_prior_is_small_and_of_these_features() -> None:
    prior = bundled.machines()
    assert tuple(prior["features"]) == machine_rows.FEATURES
    assert len(json.dumps(prior)) < 20_000


def test_what_was_fitted_is_kept_as_plain_json() -> None:
    prior = learned(jobs=8).to_prior()
    assert json.loads(json.dumps(prior)) == prior
    nothing = machine_rows.rows(machine_rows.describe([1.0], [1.0], []), "", "", job="", model="")
    again = MachineRegressor(prior=prior).fit(nothing, [])
    assert again.predict(rows(1.3, job="new")) == pytest.approx(0.4 * here_s(1.3), rel=0.1)


def test_growth_beyond_the_batch_is_not_taken_for_the_jobs() -> None:
    full = [0.01, 0.02, 0.2]
    found = machine_rows.describe([16, 32, 64], full, [64])
    assert np.exp(found["log_here"][0]) < 0.05


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.integers(1, 512), min_size=1, max_size=6),
    seconds=st.lists(st.floats(1e-4, 10), min_size=6, max_size=6),
    asked=st.integers(1, 1024),
)
def test_any_measured_job_can_be_described(
    batches: list[int], seconds: list[float], asked: int
) -> None:
    found = machine_rows.describe(batches, seconds[: len(batches)], [asked])
    assert all(np.all(np.isfinite(column)) for column in found.values())


@pytest.mark.parametrize("bad", [([], []), ([16], [0.0]), ([16], [float("nan")]), ([-1], [1.0])])
def test_what_is_no_time_is_refused(bad: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="positive"):
        machine_rows.describe(*bad, [16])


def test_nothing_is_predicted_before_fit_nor_from_half_a_table() -> None:
    with pytest.raises(NotFittedError):
        MachineRegressor().predict(rows(1.0, job="new"))
    half = {k: v for k, v in rows(1.0, job="new").items() if k != "slope"}
    with pytest.raises(ValueError, match="slope"):
        MachineRegressor().fit(half, here_s(1.0))
