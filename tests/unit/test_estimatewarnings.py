"""Warnings of an estimate: what the reader should know, and nothing when all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import exp, log

import pytest
from support.planning import NOW, WORK, estimate, knobs, price, resources

from planner.core.distribution import Distribution
from planner.core.job import JobSpec
from planner.core.types import Offer, ProbeResult, ProbeState
from planner.services.estimating.estimatewarnings import (
    batch_over_data,
    batch_warning,
    busy_warning,
    drift_warning,
    interrupted_warning,
    option_warnings,
    probe_warnings,
    reuse_warning,
    shape_text,
    work_warnings,
)
from predictors.conformal import ENOUGH
from predictors.registry import job_predictor

GOOD = ProbeResult(
    id="p-1",
    fingerprint="f:1",
    resources=resources(2),
    knobs=knobs(32, workers=2),
    state="ok",
    measured_at=NOW,
    step_time_s=(0.1,),
    other_cores=0.05,
)
UNSURE = replace(GOOD, step_time_s=(0.1,) * 30)
SURE = replace(
    UNSURE, start_s=1.0, tail_s=0.1, tail_samples=WORK.tail_samples, checkpoint_s=0.1, rest_s=0.1
)
JOB = JobSpec(name="j", command=("python",), workdir="/j", epochs=10, tier=1)


def test_when_all_is_well_nothing_is_said() -> None:
    assert probe_warnings([GOOD]) == ()
    assert batch_warning([GOOD], 64) == ()
    assert busy_warning([GOOD], []) == ()
    assert reuse_warning([], NOW) == ()
    assert work_warnings(JOB, WORK) == ()
    assert batch_over_data(WORK.samples, WORK) == ()
    assert option_warnings(()) == ()


def test_a_script_that_makes_each_worker_a_replica_is_told_of_parallel() -> None:
    shared = replace(GOOD, knobs=replace(GOOD.knobs, tensor_parallel=2))
    (told,) = batch_warning([shared], GOOD.knobs.global_batch // 2)
    assert told.hint is not None and "[parallel]" in told.hint
    (alone,) = batch_warning([GOOD, shared], GOOD.knobs.global_batch // 2)
    assert alone.hint is not None and "[parallel]" not in alone.hint


def test_a_batch_that_no_epoch_fills_is_told() -> None:
    (told,) = batch_over_data(WORK.samples + 1, WORK)
    assert told.code == "job.batch_over_data"
    assert str(WORK.samples) in told.text


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("failed", "probe.failed"),
        ("preempted", "probe.failed"),
        ("oom", "probe.oom"),
        ("skipped", "probe.skipped"),
        ("ok", "probe.checkpoint_failed"),
    ],
)
def test_each_probe_that_has_something_to_say_says_it(state: ProbeState, code: str) -> None:
    (warning,) = probe_warnings([replace(GOOD, state=state, error="the disk is full")])
    assert warning.code == code
    assert "2 workers x 32" in warning.text
    assert "the disk is full" in warning.text


@pytest.mark.parametrize("finished_runs", [0, ENOUGH])
@pytest.mark.parametrize(
    ("step_time_s", "wider"),
    # Steps that differ this much widen intervals by all that is allowed: company adds nothing.
    [((0.1,) * 30, True), ((0.1, 0.3) * 15, False)],
)
def test_a_busy_machine_is_told_and_wider_intervals_only_where_they_are(
    step_time_s: tuple[float, ...], wider: bool, finished_runs: int
) -> None:
    runs = [(Distribution.lognormal(100.0, 0.1), 110.0)] * finished_runs
    alone = replace(SURE, step_time_s=step_time_s)
    busy = replace(alone, id="p-2", other_cores=1.26)
    configs = [(SURE.resources, SURE.knobs)]
    a, b = (
        job_predictor(finished=runs).fit(probes).predict(configs, WORK)
        for probes in ([alone, replace(alone, id="p-2")], [alone, busy])
    )
    (warning,) = busy_warning([alone, busy], b)
    assert warning.code == "machine.busy"
    assert "1.3 cores" in warning.text
    assert ("Intervals are wider for that" in warning.text) == wider
    assert (b[0].run_s.p95 > 1.01 * a[0].run_s.p95) == wider


def test_intervals_of_another_machine_than_the_busy_one_are_not_called_wider() -> None:
    busy = replace(SURE, other_cores=1.26)
    elsewhere = replace(SURE, id="p-2", resources=resources(2, pool="other"), other_cores=0.0)
    configs = [(p.resources, p.knobs) for p in (busy, elsewhere)]
    found = job_predictor().fit([busy, elsewhere]).predict(configs, WORK)
    assert "Some intervals are wider" in busy_warning([busy, elsewhere], found)[0].text
    assert "wider" not in busy_warning([busy, elsewhere], found[1:])[0].text


def test_what_a_failed_probe_saw_of_the_machine_does_not_count() -> None:
    assert busy_warning([replace(GOOD, state="failed", other_cores=3.0)], []) == ()


def test_the_oldest_of_the_reused_probes_gives_the_age() -> None:
    old = replace(GOOD, measured_at=NOW - timedelta(hours=3))
    (warning,) = reuse_warning([GOOD, old], NOW)
    assert "2 probes are reused" in warning.text
    assert "3h" in warning.text
    assert "whatever the age" in warning.text


@pytest.mark.parametrize("runs_made", [5, ENOUGH, 2 * ENOUGH])
@pytest.mark.parametrize(
    ("probe", "error", "told"),
    # An unsure prediction is wide whatever runs did: what they differed by adds little to it, and
    # as a conformal radius nothing.
    [(SURE, 0.3, True), (SURE, 0.02, False), (UNSURE, 0.3, False)],
)
def test_runs_that_make_intervals_wider_are_told_with_how_much(
    probe: ProbeResult, error: float, told: bool, runs_made: int
) -> None:
    runs = [(Distribution.lognormal(100.0, 0.1), 100.0 * exp(error))] * runs_made
    wide, plain = (job_predictor(finished=f).fit([probe]) for f in (runs, ()))
    configs = [(probe.resources, probe.knobs)]
    assert drift_warning(plain.card(), plain.predict(configs, WORK)) == ()
    a, b = (p.predict(configs, WORK)[0].run_s for p in (wide, plain))
    times = log(a.p95 / a.p05) / log(b.p95 / b.p05)
    warnings = drift_warning(wide.card(), wide.predict(configs, WORK))
    assert bool(warnings) == told == (times > 1.2)
    if warnings:
        assert warnings[0].code == "model.intervals_widened"
        assert f"{runs_made} finished runs" in warnings[0].text
        assert f"{times:.1f} times as wide" in warnings[0].text


def test_options_that_interruptions_hardly_let_finish_are_told() -> None:
    losing = job_predictor(saves=False).fit([SURE])
    configs, long = [(SURE.resources, SURE.knobs)], replace(WORK, samples=200 * WORK.samples)
    calm, risky = (
        Offer(resources=SURE.resources, price=price(hazard=h), wait_s=Distribution.exactly(0.0))
        for h in (0.01, 6.0)
    )
    found = losing.predict(configs, long, [calm])
    assert interrupted_warning(found) == ()
    (warning,) = interrupted_warning([*found, *losing.predict(configs, long, [risky])])
    assert warning.code == "run.hardly_finishes"
    assert "1 of 2 options" in warning.text


def test_a_clock_that_was_put_back_makes_no_negative_age() -> None:
    (warning,) = reuse_warning([replace(GOOD, measured_at=NOW + timedelta(hours=1))], NOW)
    assert "-" not in warning.text.replace("--fresh", "")


def test_options_beyond_memory_are_told_with_the_least_batch() -> None:
    fits, tight = (
        replace(o, p_oom=p, knobs=knobs(batch))
        for o, p, batch in zip(estimate().options, (0.0, 0.9), (16, 64), strict=False)
    )
    (warning,) = [w for w in option_warnings([fits, tight]) if w.code == "memory.beyond"]
    assert "1 of 2 options" in warning.text
    assert "micro-batches of 64 and more" in warning.text
    assert warning.hint
    assert "memory.beyond" not in [w.code for w in option_warnings([fits])]


def spread(batch: int, p_oom: float, tensor: int = 1):
    option = estimate().options[0]
    return replace(option, p_oom=p_oom, knobs=replace(knobs(batch), tensor_parallel=tensor))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([(8, 0.9), (16, 0.0, 8), (8, 0.0, 8)], "(micro-batches of 8 and more with a worker a rep"),
        ([(8, 0.9), (16, 0.0, 8), (64, 0.9, 8)], "a replica, 64 and more with tensor 8)"),
        ([(8, 0.9, 2), (4, 0.0), (16, 0.9), (8, 0.0)], "of 16 and more with a worker a replica, 8"),
        ([(8, 0.9), (8, 0.9, 8), (4, 0.0)], "(micro-batches of 8 and more)"),
        ([(8, 0.9), (4, 0.0, 8), (4, 0.0)], "(micro-batches of 8 and more)"),
    ],
)
def test_batches_beyond_memory_are_told_by_layout_where_that_matters(
    options: list[tuple[int, float, int]], told: str
) -> None:
    found = option_warnings([spread(*o) for o in options])
    assert told in next(w.text for w in found if w.code == "memory.beyond")


def test_memory_that_nobody_knows_is_told() -> None:
    nothing = replace(estimate().options[0], memory_bytes=Distribution.exactly(0.0))
    assert "memory.unknown" in [w.code for w in option_warnings([nothing])]
    crashed = replace(nothing, p_oom=0.97)
    texts = {w.code: w.text for w in option_warnings([nothing, crashed])}
    assert "1 of 2 options" in texts["memory.beyond"]
    assert "no option is refused" not in texts["memory.unknown"]


def test_a_probe_is_told_by_how_its_replicas_are_spread() -> None:
    shared = replace(GOOD, knobs=replace(GOOD.knobs, tensor_parallel=2))
    assert shape_text(GOOD) == f"2 workers x {GOOD.knobs.micro_batch}"
    assert shape_text(shared) == f"2 workers (tensor 2) x {GOOD.knobs.micro_batch}"
