"""Warnings of an estimate: what the reader should know, and nothing when all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from support.planning import NOW, WORK, knobs, resources

from planner.core.types import JobSpec, ProbeResult, ProbeState
from planner.services.estimating.estimatewarnings import (
    batch_warning,
    busy_warning,
    option_warnings,
    probe_warnings,
    reuse_warning,
    work_warnings,
)

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


def test_a_clock_that_was_put_back_makes_no_negative_age() -> None:
    (warning,) = reuse_warning([replace(GOOD, measured_at=NOW + timedelta(hours=1))], NOW)
    assert "-" not in warning.text.replace("--fresh", "")
