"""`RunTimeRegressor` on its own: trials in, distributions of whole runs out."""

from __future__ import annotations

import numpy as np
import pytest

from planner.core.distribution import I05, I50, I95, LEVELS, Distribution
from planner.core.job import LanguageModel
from predictors.estimator import NotFittedError
from predictors.language_steps import LanguageSteps
from predictors.run_time import RunTimeRegressor
from predictors.step_time import StepTimeRegressor

START_S, REST_S = 8.0, 2.0


def step_s(workers: float, micro_batch: float) -> float:
    return 0.02 + 0.01 * micro_batch + 0.03 * (workers > 1)


def trials(**columns) -> tuple[dict[str, list[float]], np.ndarray]:
    """Forty steps of three configurations: only the start, the rest and the whole were timed."""
    shapes = [(1.0, 16.0), (1.0, 64.0), (2.0, 32.0)]
    X = {
        "workers": [w for w, _ in shapes],
        "micro_batch": [m for _, m in shapes],
        "on_cpu": [1.0] * 3,
        "loader_workers": [0.0] * 3,
        "steps": [40.0] * 3,
        "start_s": [START_S] * 3,
        "rest_s": [REST_S] * 3,
        "checkpoint_s": [0.0] * 3,
        **columns,
    }
    return X, np.asarray([START_S + 40 * step_s(*s) + REST_S for s in shapes])


def run(**changes: object) -> dict[str, object]:
    """A run of 1,000 steps of one worker with 64 samples each."""
    asked = {
        "workers": [1.0],
        "micro_batch": [64.0],
        "on_cpu": [1.0],
        "loader_workers": [0.0],
        "samples": [6400.0],
        "epochs": [10.0],
    }
    return {**asked, **changes}


def fitted(**columns) -> RunTimeRegressor:
    return RunTimeRegressor().fit(*trials(**columns))


def test_the_pace_is_what_timed_parts_leave_of_the_wall_time() -> None:
    expected = START_S + 1000 * step_s(1, 64) + REST_S
    found = fitted().predict_distribution(run())[0]
    assert found[I50] == pytest.approx(expected, rel=0.03)
    assert found[I05] < expected < found[I95]


def test_a_measured_pace_goes_before_what_the_wall_time_leaves() -> None:
    X, y = trials(step_time_s=[2 * step_s(1, 16), 2 * step_s(1, 64), 2 * step_s(2, 32)])
    measured = RunTimeRegressor().fit(X, y).predict(run())
    assert measured == pytest.approx(
        START_S + REST_S + 2 * (fitted().predict(run()) - START_S - REST_S), rel=0.03
    )


def test_waiting_is_part_of_the_total_and_not_of_the_run() -> None:
    wait = Distribution.lognormal(600.0, 0.5)
    model = fitted()
    alone = model.runs(run())
    waiting = model.runs(run(wait_s=np.asarray([wait.quantiles])))
    assert waiting.run_s.tolist() == alone.run_s.tolist()
    assert waiting.total_s[0, I50] == pytest.approx(alone.total_s[0, I50] + 600.0)
    assert waiting.total_s[0, I95] - waiting.total_s[0, I50] > wait.p95 - wait.p50
    known = model.predict(run(wait_s=[600.0]))
    assert known == pytest.approx(alone.total_s[:, I50] + 600.0)


def test_samples_to_evaluate_on_never_make_a_run_shorter() -> None:
    X, y = trials(tail_s=[1.5] * 3, tail_samples=[100.0] * 3)
    job = RunTimeRegressor().fit(X, y)
    counts = [0.0, 1.0, 3.0, 50.0, 99.0, 100.0, 101.0, 1000.0]
    taken_s = [float(job.predict(run(tail_samples=[n]))[0]) for n in counts]
    assert np.all(np.diff(taken_s) > 0)
    # Where nobody knows how many there are, they take what they took in trials.
    unknown_s = job.predict(run(tail_samples=[np.nan]))[0]
    assert unknown_s == job.predict(run())[0]
    assert unknown_s == pytest.approx(taken_s[counts.index(100.0)])


@pytest.mark.parametrize("wrong", [-1.0, np.inf])
def test_evaluation_samples_are_a_number_or_unknown(wrong) -> None:
    with pytest.raises(ValueError, match="tail_samples"):
        fitted().predict(run(tail_samples=[wrong]))


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("gpu", ["A100", None])
def test_more_samples_of_a_language_model_never_take_less(tensor, pipeline, gpu) -> None:
    model = LanguageModel(hidden=1024, heads=16, layers=24, sequence=1024, vocabulary=50304)
    steps = LanguageSteps(model=model, gpu=gpu, plain=StepTimeRegressor())
    probed = {"workers": [4, 4], "nodes": [1, 1], "micro_batch": [2, 8], "accumulation": [4, 4]}
    spread = {"tensor_parallel": [1, 1], "pipeline_parallel": [4, 4]}
    times = {"steps": [20, 20], "step_time_s": [0.3, 0.9], "start_s": [5.0, 5.0]}
    job = RunTimeRegressor(step=steps).fit({**probed, **spread, **times}, [30.0, 60.0])
    samples = np.arange(1.0, 600.0)
    columns = {
        "workers": 4.0,
        "nodes": 1.0,
        "micro_batch": 16.0,
        "accumulation": 8.0,
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "epochs": 10.0,
    }
    asked = {name: np.full(len(samples), value) for name, value in columns.items()}
    taken_s = job.predict({**asked, "samples": samples})
    assert (np.diff(taken_s) >= -1e-9 * taken_s[1:]).all()


def test_interruptions_lengthen_a_run_and_are_counted() -> None:
    safe, risky = (
        fitted().runs(run(epochs=[100.0], interruptions_per_h=[h], checkpoint_interval_s=[600.0]))
        for h in (0.0, 1.0)
    )
    stretches = safe.run_s[0, I50] / 600  # each of a sixth of an hour
    assert risky.interruptions[0] == pytest.approx(stretches * np.expm1(1 / 6), rel=0.05)
    assert risky.run_s[0, I50] > safe.run_s[0, I50] + 100.0


def test_a_job_that_saves_nothing_loses_all_that_has_run() -> None:
    asked = run(epochs=[100.0], interruptions_per_h=[1.0], checkpoint_interval_s=[600.0])
    saving, losing = (RunTimeRegressor(saves=s).fit(*trials()).predict(asked)[0] for s in (1, 0))
    assert losing > 1.3 * saving


def test_draws_have_the_median_of_the_prediction() -> None:
    model = fitted()
    drawn = model.draws(run(), np.random.default_rng(0), size=400)
    assert drawn.shape == (400, 1)
    assert np.median(drawn) == pytest.approx(model.predict(run())[0], rel=0.02)


def test_it_keeps_the_conventions() -> None:
    from sklearn.base import clone

    model = RunTimeRegressor(saves=False, restart_s=30.0)
    again = clone(model).fit(*trials())
    assert again.get_params()["restart_s"] == 30.0
    assert again.predict_distribution(run()).shape == (1, len(LEVELS))
    with pytest.raises(NotFittedError):
        model.predict(run())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start_s": [1e3] * 3}, "its parts cannot take longer"),
        ({"steps": [float("nan")] * 3}, "neither its steps nor the time of one"),
        ({"tensor_parallel": [1.0, 1.0, 4.0]}, "row 2: tensor_parallel x .* divide workers"),
    ],
)
def test_trials_that_cannot_be_are_refused(changes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fitted(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": [-1.0]}, "samples"),
        ({"epochs": [float("nan")]}, "epochs"),
        ({"wait_s": [-5.0]}, "wait_s"),
        ({"wait_s": np.zeros((1, 3))}, "wait_s"),
        ({"tensor_parallel": [float("nan")]}, "'tensor_parallel' must hold positive"),
        ({"tensor_parallel": [0.0]}, "'tensor_parallel' must hold positive"),
        ({"pipeline_parallel": [-1.0]}, "'pipeline_parallel' must hold positive"),
        ({"pipeline_parallel": [0.5]}, "row 0: pipeline_parallel must be a whole number"),
        (
            {"workers": [2.0], "tensor_parallel": [3.0]},
            "row 0: tensor_parallel x .* divide workers",
        ),
    ],
)
def test_runs_that_cannot_be_are_refused(changes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fitted().predict(run(**changes))
    asked = run()
    del asked["samples"]
    with pytest.raises(ValueError, match="missing columns"):
        fitted().predict(asked)
