"""Warnings of an estimate: what the reader should know, and nothing when all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import exp

import pytest
from support.planning import NOW, WORK, knobs, resources

from planner.core.distribution import Distribution
from planner.core.types import JobSpec, ProbeResult, ProbeState
from planner.services.estimating.estimatewarnings import (
    batch_warning,
    busy_warning,
    drift_warning,
    option_warnings,
    probe_warnings,
    reuse_warning,
    work_warnings,
)
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
JOB = JobSpec(name="j", command=("python",), workdir="/j", epochs=10, tier=1)


def test_when_all_is_well_nothing_is_said() -> None:
    assert probe_warnings([GOOD]) == ()
    assert batch_warning([GOOD], 64) == ()
    assert busy_warning([GOOD]) == ()
    assert reuse_warning([], NOW) == ()
    assert work_warnings(JOB, WORK) == ()
    assert option_warnings(()) == ()


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


def test_a_busy_machine_is_told_even_of_reused_probes() -> None:
    (warning,) = busy_warning([GOOD, replace(GOOD, other_cores=1.26)])
    assert warning.code == "machine.busy"
    assert "1.3 cores" in warning.text


def test_what_a_failed_probe_saw_of_the_machine_does_not_count() -> None:
    assert busy_warning([replace(GOOD, state="failed", other_cores=3.0)]) == ()


def test_the_oldest_of_the_reused_probes_gives_the_age() -> None:
    old = replace(GOOD, measured_at=NOW - timedelta(hours=3))
    (warning,) = reuse_warning([GOOD, old], NOW)
    assert "2 probes are reused" in warning.text
    assert "3h" in warning.text
    assert "whatever the age" in warning.text


@pytest.mark.parametrize(("error", "told"), [(0.3, True), (0.02, False)])
def test_runs_that_make_intervals_wider_are_told_with_how_much(error: float, told: bool) -> None:
    runs = [(Distribution.lognormal(100.0, 0.1), 100.0 * exp(error))] * 5
    steady = replace(GOOD, step_time_s=(0.1,) * 30)
    wide, plain = (job_predictor(finished=f).fit([steady]) for f in (runs, ()))
    assert drift_warning(plain.card()) == ()
    configs = [(GOOD.resources, GOOD.knobs)]
    a, b = (p.predict(configs, WORK)[0].run_s for p in (wide, plain))
    assert (a.p95 / a.p50 > b.p95 / b.p50) == told
    warnings = drift_warning(wide.card())
    assert bool(warnings) == told
    if warnings:
        assert warnings[0].code == "model.intervals_widened"
        assert "5 finished runs" in warnings[0].text
        assert "21 %" in warnings[0].text  # of sqrt((6 x 0.08^2 + 5 x 0.3^2) / 11)
        assert "8 % is assumed" in warnings[0].text


def test_a_clock_that_was_put_back_makes_no_negative_age() -> None:
    (warning,) = reuse_warning([replace(GOOD, measured_at=NOW + timedelta(hours=1))], NOW)
    assert "-" not in warning.text.replace("--fresh", "")
