"""Whole runs: what an epoch is made of, fixed parts that do not grow, intervals that hold."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from planner.core.distribution import I05, I50, I95, Distribution
from planner.core.types import WorkLoad
from predictors import run_parts
from predictors.conformal import ENOUGH, PRIOR_DRIFT_SIGMA, calibrate
from predictors.features import mean_step_s, run_table, step_weight, trial_table
from predictors.registry import job_predictor
from predictors.run_parts import RunParts, steps_of
from predictors.run_time import RunTimeRegressor
from predictors.step_time import StepTimeRegressor
from tests.support.syntheticjobs import WORK, SyntheticJob, configuration

QUIET = SyntheticJob(drift=0.0)
NO_WIDTH = 1e-9


def fitted(job: SyntheticJob = QUIET, *, saves: bool = True, **changes):
    rng = np.random.default_rng(0)
    trials = [job.probe(rng, w, m) for w, m in [(1, 16), (1, 64), (2, 32)]]
    return job_predictor(saves=saves).fit([replace(p, **changes) for p in trials])


def parts_of(probes) -> RunParts:
    return run_parts.parts_of(trial_table(probes))


def steps(samples: int, workers: int, micro_batch: int, global_batch: int = 64):
    asked = [configuration(workers, micro_batch, global_batch=global_batch)]
    return steps_of(run_table(asked, replace(WORK, samples=samples)))


def test_an_epoch_ends_with_a_shorter_step() -> None:
    plan = steps(1257, 2, 16)
    assert plan.full[0] == 19
    assert plan.has_last[0]
    assert plan.last_micro_batch[0] * plan.last_accumulation[0] * 2 == 1257 - 19 * 64
    assert plan.last_micro_batch[0] <= 16


def test_an_epoch_of_whole_batches_has_no_shorter_step() -> None:
    plan = steps(640, 2, 16)
    assert plan.full[0] == 10
    assert not plan.has_last[0]


def test_a_last_step_of_less_than_two_samples_a_worker_joins_the_one_before() -> None:
    assert not steps(64 * 3 + 3, 2, 16).has_last[0]
    assert steps(64 * 3 + 4, 2, 16).has_last[0]


def test_fewer_samples_than_a_batch_are_one_shorter_step() -> None:
    plan = steps(10, 1, 64)
    assert plan.full[0] == 0
    assert plan.has_last[0]
    assert plan.last_micro_batch[0] == 10


def test_what_an_epoch_costs_besides_its_steps_does_not_scale_with_the_training_data() -> None:
    model = fitted()
    few, many = (
        model.predict([configuration(1, 64)], replace(WORK, samples=n, epochs=1))[0].run_s.p50
        for n in (640, 6400)
    )
    step = model.predict([configuration(1, 64)], WORK)[0].step_time_s.p50
    assert many - few == pytest.approx(90 * step, rel=0.02)


def test_start_is_paid_once() -> None:
    slow = fitted(start_s=106.0)
    fast = fitted(start_s=6.0)
    asked = [configuration(1, 16)]
    for epochs in (1, 20):
        work = replace(WORK, epochs=epochs)
        a, b = (m.predict(asked, work)[0].run_s.p50 for m in (slow, fast))
        assert a - b == pytest.approx(100, abs=1)


def test_evaluation_grows_with_its_data_but_its_fixed_part_does_not() -> None:
    asked = [configuration(1, 16)]
    model = fitted(tail_s=10.0, tail_samples=54)
    one, all_ = (
        model.predict(asked, replace(WORK, tail_samples=n, epochs=10))[0].run_s for n in (54, 540)
    )
    # 10 s on 54 samples cannot be samples alone, which cost a third of 12 ms each to train on.
    assert one.p50 < all_.p50 < one.p50 + 0.2 * 11 * 10
    # 0.2 s on 54 samples can: ten times the data then takes longer, and nobody knows how much.
    model = fitted(tail_s=0.2, tail_samples=54)
    one, all_ = (
        model.predict(asked, replace(WORK, tail_samples=n, epochs=10))[0].run_s for n in (54, 540)
    )
    assert one.p50 + 5 < all_.p50 < one.p50 + 10 * 11 * 0.2
    assert all_.p95 - all_.p05 > one.p95 - one.p05


def test_evaluation_on_the_slices_own_samples_is_what_was_seen() -> None:
    asked, work = [configuration(1, 16)], replace(WORK, tail_samples=54, epochs=10)
    with_tail = fitted(tail_s=3.0).predict(asked, work)[0].run_s.p50
    without = fitted(tail_s=0.0).predict(asked, work)[0].run_s.p50
    assert with_tail - without == pytest.approx(11 * 3.0, rel=0.1)  # ten epochs and the test


def test_a_script_that_evaluates_nothing_is_charged_nothing_for_it() -> None:
    work = replace(WORK, tail_samples=0)
    none = fitted(tail_s=None, tail_samples=None)
    zero = fitted(tail_s=0.0, tail_samples=None)
    a, b = (m.predict([configuration(1, 16)], work)[0].run_s.p50 for m in (none, zero))
    assert a == pytest.approx(b, rel=0.01)


def test_checkpoints_are_counted_from_the_interval() -> None:
    model = fitted(checkpoint_s=20.0)
    resources, knobs = configuration(1, 64)
    work = WorkLoad(samples=6400, epochs=10)
    rare, often = model.predict(
        [
            (resources, replace(knobs, checkpoint_interval_s=1e6)),
            (resources, replace(knobs, checkpoint_interval_s=100.0)),
        ],
        work,
    )
    training = 1000 * rare.step_time_s.p50
    expected = 20.0 * np.floor(training / 100.0)
    assert often.run_s.p50 - rare.run_s.p50 == pytest.approx(expected, rel=0.02)


def test_what_a_probe_cannot_account_for_is_expected_of_the_run() -> None:
    asked = [configuration(1, 64)]
    little, much = (fitted(rest_s=s).predict(asked, WORK)[0].run_s.p50 for s in (1.0, 31.0))
    assert much - little == pytest.approx(30, abs=0.5)


def test_a_job_that_writes_no_checkpoint_is_charged_for_none() -> None:
    rng = np.random.default_rng(0)
    probe = replace(QUIET.probe(rng, 1, 64), checkpoint_s=None)
    workers = np.asarray([1.0])
    assert parts_of([probe]).checkpoint.at(workers)[0] == 0
    broken = replace(probe, error="no checkpoint could be written: no space left on device")
    assert parts_of([broken]).checkpoint.at(workers)[0] > 0


def test_probes_that_were_cut_short_do_not_make_checkpoints_free() -> None:
    resources, knobs = configuration(1, 64)
    asked = [(resources, replace(knobs, checkpoint_interval_s=60.0))]
    work = WorkLoad(samples=6400, epochs=100)
    cut = {"cut": True, "checkpoint_s": None, "rest_s": None}
    true_s = fitted(checkpoint_s=20.0).predict(asked, work)[0].run_s.p50
    run_s = fitted(**cut).predict(asked, work)[0].run_s
    assert run_s.p50 < true_s < run_s.p95
    without = fitted(saves=False, **cut).predict(asked, work)[0].run_s
    assert without == fitted(checkpoint_s=None, rest_s=None).predict(asked, work)[0].run_s


def test_one_probe_that_ended_without_a_checkpoint_tells_that_the_job_writes_none() -> None:
    rng = np.random.default_rng(0)
    ended = replace(QUIET.probe(rng, 1, 64), checkpoint_s=None)
    cut = replace(QUIET.probe(rng, 1, 16), checkpoint_s=None, rest_s=None, cut=True)
    workers = np.asarray([1.0])
    assert parts_of([cut]).checkpoint.at(workers)[0] > 0
    assert parts_of([cut, ended]).checkpoint.at(workers)[0] == 0
    assert parts_of([cut, QUIET.probe(rng, 1, 32)]).checkpoint.at(workers)[0] == pytest.approx(0.2)


def test_starts_that_differ_between_probes_widen_what_is_expected_of_the_next() -> None:
    rng = np.random.default_rng(0)
    probes = [QUIET.probe(rng, 1, m) for m in (8, 16, 32)]
    starts_alike, starts_apart = (
        parts_of([replace(p, start_s=s) for p, s in zip(probes, values, strict=True)]).start
        for values in ((5.0, 5.1, 4.9), (10.0, 5.0, 2.5))
    )
    workers = np.asarray([1.0])
    assert starts_apart.at(workers)[0] == pytest.approx(5.0)
    assert starts_alike.at(workers)[1] < 0.2 < 0.4 < starts_apart.at(workers)[1]


def test_a_part_that_took_nothing_once_does_not_rule_the_others() -> None:
    rng = np.random.default_rng(0)
    probes = [QUIET.probe(rng, 1, m) for m in (8, 16, 32)]
    part = parts_of([replace(p, rest_s=s) for p, s in zip(probes, (0.0, 3.0, 3.0), strict=True)])
    median, sd = part.rest.at(np.asarray([1.0]))
    assert 1.5 < median[0] < 3.0
    assert median[0] * np.exp(2.33 * sd[0]) < 12.0


def test_parameters_of_the_law_of_steps_are_reached_through_the_run() -> None:
    model = RunTimeRegressor(step=StepTimeRegressor(members=4))
    assert model.get_params()["step__members"] == 4
    assert "step__members" not in model.get_params(deep=False)
    assert model.set_params(step__members=3, restart_s=5.0).step.members == 3
    with pytest.raises(ValueError, match="no parameter 'members'"):
        model.set_params(step__members=3, members=2)


@pytest.mark.parametrize("bad", [{"global_batch": 0.0}, {"global_batch": -3.0}])
def test_work_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    trial = {"workers": [1.0], "micro_batch": [8.0], "steps": [50.0]}
    model = RunTimeRegressor().fit(trial, [10.0])
    asked = {"workers": [1.0], "micro_batch": [8.0], "samples": [640.0], "epochs": [2.0]}
    assert model.predict(asked)[0] > 0
    with pytest.raises(ValueError, match="global_batch"):
        model.predict({**asked, **{name: [value] for name, value in bad.items()}})


def test_trials_that_never_end_are_refused() -> None:
    trial = {"workers": [1.0], "micro_batch": [8.0], "steps": [50.0], "tail_s": [inf]}
    with pytest.raises(ValueError, match="tail_s"):
        RunTimeRegressor().fit(trial, [10.0])
    with pytest.raises(ValueError, match="restart_s"):
        RunTimeRegressor(restart_s=-1.0).fit({**trial, "tail_s": [0.1]}, [10.0])


def test_a_run_that_never_ended_calibrates_nothing() -> None:
    said = Distribution.lognormal(100.0, 0.1)
    assert calibrate([(said, inf)]) == calibrate([])


def test_one_hiccup_is_not_taken_for_every_step() -> None:
    rng = np.random.default_rng(0)
    probe = replace(QUIET.probe(rng), step_time_s=(*[1.0] * 29, 60.0))
    assert mean_step_s(probe) == pytest.approx(1 + 2 / 30)
    assert step_weight(probe, 0.05) < step_weight(QUIET.probe(rng), 0.05) <= 1


# ---- intervals -------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [(1, 64), (2, 32)])
def test_real_runs_fall_into_their_interval_as_often_as_it_says(asked) -> None:
    n, inside, half_widths = 60, 0, []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        job = SyntheticJob(
            fixed_s=float(rng.uniform(0.002, 0.03)),
            per_sample_s=float(rng.uniform(0.004, 0.02)),
            contention=float(rng.uniform(0.1, 0.9)),
            sync_s=float(rng.uniform(0.005, 0.08)),
            evaluation_per_sample_s=float(rng.uniform(0.001, 0.006)),
            drift=0.06,
        )
        probes = [job.probe(rng, w, m) for w, m in [(1, 16), (1, 64), (2, 32)]]
        run = job_predictor().fit(probes).predict([configuration(*asked)], WORK)[0].run_s
        inside += run.p05 <= job.run_s(rng, *asked, WORK) <= run.p95
        half_widths.append((run.p95 - run.p05) / 2 / run.p50)
    # 90 % of 60 is 54; below 48 has a probability under 2 %.
    assert inside >= 48
    assert np.median(half_widths) < 0.25


def test_steady_company_during_the_probes_widens_the_interval() -> None:
    asked = [configuration(1, 64)]
    alone, crowded, more = (
        fitted(other_cores=cores).predict(asked, WORK)[0].run_s for cores in (0.0, 0.2, 5.0)
    )
    assert alone.p50 == pytest.approx(crowded.p50)
    widths = [run.p95 / run.p05 for run in (alone, crowded, more)]
    assert widths[0] < 0.97 * widths[1] < 0.97 * widths[2]
    assert fitted(other_cores=None).predict(asked, WORK)[0].run_s == alone


@pytest.mark.parametrize("runs", [0, ENOUGH])
def test_the_most_crowded_probe_widens_the_interval_whatever_runs_showed(runs: int) -> None:
    rng = np.random.default_rng(0)
    finished = [(Distribution.lognormal(100.0, 0.1), 115.0)] * runs
    probes = [QUIET.probe(rng, w, m) for w, m in [(1, 16), (1, 64), (2, 32)]]
    one_crowded = [*probes[:2], replace(probes[2], other_cores=5.0)]
    alone, crowded = (
        job_predictor(finished=finished).fit(tried).predict([configuration(1, 64)], WORK)[0]
        for tried in (probes, one_crowded)
    )
    widths = [float(np.log(p.run_s.p95 / p.run_s.p05)) for p in (alone, crowded)]
    assert widths[1] > 1.2 * widths[0]
    assert alone.widened_by_company == 1.0
    assert crowded.widened_by_company == pytest.approx(widths[1] / widths[0])


def test_without_finished_runs_drift_is_the_prior() -> None:
    empty = calibrate([])
    assert empty.drift_sigma == PRIOR_DRIFT_SIGMA
    assert empty.method == "analytic"
    assert empty.coverage is None


@pytest.mark.parametrize(("noise", "wider"), [(0.3, True), (0.005, False)])
def test_a_few_finished_runs_move_the_drift_towards_what_they_showed(noise, wider) -> None:
    told = Distribution.lognormal(100.0, 0.1)
    signs = [1, -1, 1, -1, 1]
    drift = calibrate([(told, 100.0 * float(np.exp(s * noise))) for s in signs]).drift_sigma
    assert (drift > PRIOR_DRIFT_SIGMA) == wider
    assert min(noise, PRIOR_DRIFT_SIGMA) < drift < max(noise, PRIOR_DRIFT_SIGMA)


def test_from_ten_finished_runs_on_the_interval_is_conformal() -> None:
    told = Distribution.lognormal(100.0, 0.02)
    rng = np.random.default_rng(0)
    finished = [(told, float(100 * np.exp(0.2 * rng.standard_normal()))) for _ in range(30)]
    assert calibrate(finished[: ENOUGH - 1]).method == "analytic"
    calibration = calibrate(finished)
    assert calibration.method == "split"
    scores = np.sort(np.abs(np.log([real / 100 for _, real in finished])))
    assert calibration.radius == pytest.approx(scores[27])  # ceil(31 * 0.9) = 28th of 30
    q = calibration.widen(np.full((1, 21), 50.0))[0]
    assert q[I50] == 50
    assert np.log(q[[I05, I95]] / 50) == pytest.approx([-scores[27], scores[27]], rel=1e-6)


def test_conformal_coverage_holds_whatever_the_errors_look_like() -> None:
    inside, n = 0, 300
    for seed in range(n):
        rng = np.random.default_rng(seed)
        errors = np.exp(0.05 + 0.15 * rng.standard_t(3, size=21))
        told = Distribution.lognormal(10.0, 0.01)
        q = calibrate([(told, float(10 * e)) for e in errors[:20]]).widen(np.full((1, 21), 10.0))
        inside += bool(q[0, I05] <= 10 * errors[20] <= q[0, I95])
    # 90 % of 300 is 270; below 258 has a probability of 1 %, above 290 (conservative) as well.
    assert 258 <= inside <= 291


def test_an_unsure_prediction_stays_wide_after_calibration() -> None:
    finished = [(Distribution.lognormal(100.0, 0.1), 101.0)] * 12
    unsure = np.asarray([Distribution.lognormal(100.0, 0.5).quantiles])
    q = calibrate(finished).widen(unsure)
    np.testing.assert_allclose(q, unsure)


def test_predictions_tell_how_their_interval_came_about() -> None:
    finished = [(Distribution.lognormal(100.0, 0.1), 100.0 + i) for i in range(12)]
    rng = np.random.default_rng(0)
    few, many = (
        job_predictor(finished=runs).fit([QUIET.probe(rng)]).predict([configuration()], WORK)[0]
        for runs in (finished[:3], finished)
    )
    assert (few.interval_method, few.calibrated, few.n_calibration) == ("analytic", False, 3)
    assert (many.interval_method, many.calibrated, many.n_calibration) == ("split", True, 12)
