"""The predictor of one job, as an estimate uses it: evidence, failed probes, cards, determinism."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from planner.core.distribution import Distribution
from planner.core.errors import EvidenceError
from planner.core.types import ProbeResult
from predictors.features import mean_step_s, probe_table, step_weight
from predictors.registry import job_predictor
from predictors.step_time import StepTimeRegressor
from predictors.transfer import learn_residual
from tests.support.syntheticjobs import GIB, NOON, WORK, SyntheticJob, configuration

QUIET = SyntheticJob(drift=0.0)


def probes(*shapes: tuple[int, int], job: SyntheticJob = QUIET, seed: int = 0, **more):
    rng = np.random.default_rng(seed)
    return [job.probe(rng, workers, micro_batch, **more) for workers, micro_batch in shapes]


def failed(state: str = "failed", micro_batch: int = 256, **changes) -> ProbeResult:
    resources, knobs = configuration(1, micro_batch, global_batch=micro_batch)
    base = ProbeResult(
        id=f"p-{state}-{micro_batch}",
        fingerprint="f-synthetic",
        resources=resources,
        knobs=knobs,
        state=state,  # type: ignore[arg-type]
        measured_at=NOON,
        error="exit code 1 at step 7",
    )
    return replace(base, **changes)


USUAL = [(1, 16), (1, 64), (2, 32)]


def test_answers_in_the_order_asked_with_times_near_the_truth() -> None:
    asked = [(2, 16), (1, 32), (2, 32), (1, 8), (1, 64)]
    found = job_predictor().fit(probes(*USUAL)).predict([configuration(*s) for s in asked], WORK)
    for (workers, micro_batch), prediction in zip(asked, found, strict=True):
        _, knobs = configuration(workers, micro_batch)
        step = QUIET.step_s(workers, micro_batch, knobs.accumulation)
        run = QUIET.run_s(np.random.default_rng(0), workers, micro_batch, WORK)
        assert prediction.step_time_s.p50 == pytest.approx(step, rel=0.12)
        assert prediction.run_s.p05 < run < prediction.run_s.p95
        assert prediction.memory_bytes.p50 == pytest.approx(QUIET.peak_bytes(micro_batch), rel=0.1)


def test_evidence_says_what_was_probed_and_what_was_carried_over() -> None:
    configs = [
        configuration(1, 16),
        configuration(2, 32),
        configuration(1, 32),
        configuration(2, 16),
        configuration(1, 16, gpu="A100"),
    ]
    found = job_predictor().fit(probes(*USUAL)).predict(configs, WORK)
    assert [p.evidence for p in found] == ["probe", "probe", "transfer", "transfer", "prior"]
    assert [p.run_s.evidence for p in found] == [p.evidence for p in found]
    assert found[-1].bottleneck == "unknown"
    width = [p.run_s.p95 / p.run_s.p05 for p in found]
    assert width[0] < width[3] < width[4]


def test_other_jobs_tell_how_machines_compare() -> None:
    history = []
    for i, speed in enumerate([0.9, 1.0, 1.1]):
        slow = replace(QUIET, per_sample_s=0.02 * (i + 1))
        fast = replace(slow, speed=0.1 * speed)
        history += probes((1, 16), (1, 64), job=slow, fingerprint=f"f-{i}")
        history += probes((1, 16), (1, 64), job=fast, fingerprint=f"f-{i}", gpu="A100")
    gpu = [configuration(1, 32, gpu="A100")]
    knowing = job_predictor(history).fit(probes(*USUAL)).predict(gpu, WORK)[0]
    guessing = job_predictor().fit(probes(*USUAL)).predict(gpu, WORK)[0]
    true = 0.1 * QUIET.step_s(1, 32, 2)
    assert knowing.evidence == "history"
    assert knowing.step_time_s.p50 == pytest.approx(true, rel=0.2)
    assert knowing.step_time_s.p05 < true < knowing.step_time_s.p95
    assert guessing.evidence == "prior"


def test_without_a_probe_that_ended_well_there_is_no_prediction() -> None:
    with pytest.raises(EvidenceError, match="nothing has been measured"):
        job_predictor().fit([])
    with pytest.raises(EvidenceError, match="none of 2 probes ended well") as caught:
        job_predictor().fit([failed(), failed("oom", error="out of memory")])
    assert "exit code 1 at step 7" in caught.value.text
    assert "out of memory" in caught.value.text
    assert caught.value.hint


def test_a_probe_that_ended_well_but_timed_nothing_is_no_evidence() -> None:
    silent = replace(probes((1, 16))[0], step_time_s=())
    with pytest.raises(EvidenceError):
        job_predictor().fit([silent])


def test_failed_probes_do_not_stop_the_others() -> None:
    good = probes(*USUAL)
    configs = [configuration(1, 16), configuration(2, 16)]
    with_failures = job_predictor().fit([failed(), *good, failed("preempted"), failed("skipped")])
    assert with_failures.predict(configs, WORK) == job_predictor().fit(good).predict(configs, WORK)


def test_a_probe_out_of_memory_warns_of_its_micro_batch_and_larger_ones() -> None:
    small = 900_000_000
    tried = [replace(p, capacity_bytes=small) for p in probes((1, 16), (1, 32))]
    oom = failed("oom", 64, capacity_bytes=small)
    asked = []
    for micro_batch in (16, 64, 128):
        resources, knobs = configuration(1, micro_batch, global_batch=128)
        asked.append((replace(resources, memory_bytes_per_node=small), knobs))
    found = job_predictor().fit([*tried, oom]).predict(asked, WORK)
    assert found[0].p_oom < 0.05
    assert found[1].p_oom >= 0.97
    assert found[2].p_oom >= 0.97


def test_a_gpu_nearly_full_is_bound_by_memory() -> None:
    job = replace(QUIET, fixed_bytes=1.5 * GIB, bytes_per_sample=0.21 * GIB)
    model = job_predictor().fit(probes((1, 16), (1, 32), job=job, gpu="T4"))
    small, large = model.predict(
        [configuration(1, 16, gpu="T4"), configuration(1, 64, gpu="T4")], WORK
    )
    assert small.bottleneck == "gpu"
    assert small.p_oom < 0.01
    assert large.bottleneck == "memory"
    assert large.p_oom > 0.3


def test_the_bottleneck_follows_the_wait_for_data() -> None:
    waiting = [replace(p, loader_wait_s=0.7 * np.mean(p.step_time_s)) for p in probes(*USUAL)]
    found = job_predictor().fit(waiting).predict([configuration(1, 16)], WORK)[0]
    assert found.bottleneck == "loader"


def test_one_probe_is_enough() -> None:
    model = job_predictor().fit(probes((1, 32)))
    own, other = model.predict([configuration(1, 32), configuration(2, 16)], WORK)
    assert own.evidence == "probe"
    assert other.evidence == "transfer"
    assert other.run_s.p95 / other.run_s.p05 > own.run_s.p95 / own.run_s.p05
    card = model.card()
    assert card.n_train == 1
    assert card.time_mape is None
    assert card.memory_mape is None


def test_a_machine_whose_steps_differ_is_expected_to_drift() -> None:
    rng = np.random.default_rng(0)
    shaken = [
        replace(
            p, step_time_s=tuple(t * np.exp(0.2 * rng.standard_normal()) for t in p.step_time_s)
        )
        for p in probes(*USUAL)
    ]
    steady, unsteady = (
        job_predictor().fit(rows).predict([configuration(1, 64)], WORK)[0].run_s
        for rows in (probes(*USUAL), shaken)
    )
    assert np.log(unsteady.p95 / unsteady.p05) > 1.2 * np.log(steady.p95 / steady.p05)


def test_one_probe_listed_twice_is_one_probe_and_two_trials_are_two() -> None:
    good = probes(*USUAL)
    configs = [configuration(1, 16)]
    once = job_predictor().fit(good)
    listed = job_predictor().fit([*good, *good])
    assert listed.predict(configs, WORK) == once.predict(configs, WORK)
    later = [replace(p, measured_at=p.measured_at + timedelta(hours=1)) for p in good]
    again = job_predictor().fit([*good, *later])
    assert again.card().n_train == 2 * once.card().n_train
    a, b = (m.predict(configs, WORK)[0].step_time_s for m in (again, once))
    assert a.p95 / a.p05 < b.p95 / b.p05


def test_this_jobs_own_kept_probes_are_no_other_job() -> None:
    good = probes(*USUAL)
    configs = [configuration(2, 16)]
    alone = job_predictor().fit(good).predict(configs, WORK)
    assert job_predictor(history=good).fit(good).predict(configs, WORK) == alone


def test_the_card_measures_on_probes_left_out() -> None:
    noisy = SyntheticJob(drift=0.05)
    card = job_predictor().fit(probes((1, 8), (1, 16), (1, 64), (2, 16), (2, 32), job=noisy)).card()
    assert card.n_train == 5
    assert card.time_mape is not None
    assert 0 < card.time_mape < 0.3
    assert card.memory_mape is not None
    assert 0 < card.memory_mape < 0.15
    assert card.coverage is None


def test_the_card_counts_finished_runs_within_their_intervals() -> None:
    told = Distribution.lognormal(100.0, 0.1)
    card = job_predictor(finished=[(told, 100.0), (told, 90.0), (told, 300.0)]).fit(probes(*USUAL))
    assert card.card().coverage == pytest.approx(2 / 3)


def test_the_same_seed_gives_the_same_answer_in_any_order_of_configurations() -> None:
    configs = [configuration(w, m) for w in (1, 2) for m in (8, 16, 32)]
    a = job_predictor(seed=4).fit(probes(*USUAL)).predict(configs, WORK)
    b = job_predictor(seed=4).fit(probes(*USUAL)).predict(configs[::-1], WORK)[::-1]
    c = job_predictor(seed=5).fit(probes(*USUAL)).predict(configs, WORK)
    for x, y in zip(a, b, strict=True):
        assert y.run_s.quantiles == pytest.approx(x.run_s.quantiles, rel=1e-9)
    assert a != c


def test_more_epochs_and_more_samples_take_longer() -> None:
    model = job_predictor().fit(probes(*USUAL))
    configs = [configuration(1, 16), configuration(2, 32)]
    for field, values in (("epochs", (1, 2, 7.5, 8, 40)), ("samples", (65, 640, 1257, 100_000))):
        works = [replace(WORK, **{field: value}) for value in values]
        q = np.asarray([[p.run_s.quantiles for p in model.predict(configs, w)] for w in works])
        assert np.all(np.diff(q, axis=0) > 0)


def test_nothing_asked_nothing_answered() -> None:
    assert job_predictor().fit(probes(*USUAL)).predict([], WORK) == []


def flawed(fingerprint: str, seed: int) -> list[ProbeResult]:
    """Probes of a job whose four workers slow each other more than the law can say."""
    rng = np.random.default_rng(seed)
    job = replace(QUIET, per_sample_s=float(rng.uniform(0.005, 0.03)), contention=0.1)
    rows = [job.probe(rng, w, m, fingerprint=fingerprint) for w in (1, 2, 4) for m in (4, 8, 16)]
    return [
        replace(p, step_time_s=tuple(1.6 * t for t in p.step_time_s))
        if p.resources.workers == 4
        else p
        for p in rows
    ]


def test_a_shared_flaw_of_the_law_is_learned_from_enough_jobs() -> None:
    history = [p for i in range(8) for p in flawed(f"f-{i}", i)]
    own = flawed("f-synthetic", 99)
    seen = [p for p in own if p.resources.workers < 4]
    asked = [configuration(4, 16)]
    true = float(np.mean(own[-1].step_time_s))
    learned = job_predictor(history).fit(seen)
    alone = job_predictor().fit(seen)
    assert learned.card().id != alone.card().id
    error = [
        abs(np.log(m.predict(asked, WORK)[0].step_time_s.p50 / true)) for m in (learned, alone)
    ]
    assert error[0] < error[1]


def test_the_error_on_the_card_owes_nothing_to_trees_that_saw_the_job() -> None:
    history = [p for i in range(8) for p in flawed(f"f-{i}", i)]
    own = flawed("f-synthetic", 99)
    columns, y = probe_table(own), np.asarray([mean_step_s(p) for p in own])
    weight = [step_weight(p, StepTimeRegressor().trial_sigma) for p in own]
    unseen, seen = (
        float(np.mean(np.abs(fresh.leave_one_out(columns, y, weight) / y - 1)))
        for fresh in (
            StepTimeRegressor(residual=learn_residual(rows, seed=0))
            for rows in (history, [*history, *own])
        )
    )
    assert unseen != pytest.approx(seen, rel=1e-3)
    assert job_predictor(history).fit(own).card().time_mape == pytest.approx(unseen, rel=1e-9)


def test_an_estimate_of_cached_probes_imports_nothing_heavy() -> None:
    code = """
import sys
from tests.support.syntheticjobs import WORK, SyntheticJob, configuration
import numpy as np
from predictors.registry import job_predictor
rng = np.random.default_rng(0)
model = job_predictor().fit([SyntheticJob().probe(rng, 1, 16), SyntheticJob().probe(rng, 2, 16)])
model.predict([configuration(1, 16)], WORK)
model.card()
print([m for m in ("sklearn", "xgboost", "scipy", "pandas", "torch") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
