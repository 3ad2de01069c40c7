"""Probing on while it pays: adaptive probes within the caps, and why they stop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripts import scripted_job

from planner.core import explain
from planner.core.clock import SystemClock
from planner.core.job import Goal, JobSpec, Place, ProbeSettings
from planner.core.types import EstimateResult, ProbeResult
from planner.services.api import EstimateRequest
from planner.services.estimating import evidence as gathering
from planner.services.estimating.candidates import Trial
from planner.services.estimating.estimate import Estimator
from planner.services.estimating.probing import Prober

LONG_EPOCHS = 200_000
"""So many make the run of the scripted job last for a day, beside which a probe is cheap."""
TIGHT = Goal(deadline_s=70_000.0)
"""Whether the four workers that no first probe tried keep it is open; eight do, for more money."""


@dataclass
class Law:
    """What probes measure, whose wall time is told and not passed."""

    epochs: int = LONG_EPOCHS
    wall_s: float = 20.0
    state: str = "ok"
    noise: float = 0.0
    made: list[str] = field(default_factory=list)

    def result(self, prober: Prober, key: str, trial: Trial) -> ProbeResult:
        shape, knobs = trial.resources, trial.knobs
        self.made.append(key)
        each_s = (0.02 + 0.004 * knobs.micro_batch) * (1 + 0.7 * (1 - 1 / shape.workers))
        rng = np.random.default_rng(len(self.made))
        step_s = knobs.accumulation * each_s * np.exp(self.noise * rng.standard_normal())
        ok = self.state == "ok"
        return ProbeResult(
            id=key,
            fingerprint=prober.fingerprint,
            resources=shape,
            knobs=knobs,
            state=self.state,  # type: ignore[arg-type]
            measured_at=prober.clock.now(),
            steps=12 if ok else 0,
            warmup_steps=3,
            step_time_s=(float(step_s),) * 12 if ok else (),
            start_s=2.0,
            tail_s=0.1,
            tail_samples=12,
            checkpoint_s=0.1,
            slice_samples=32,
            samples=96,
            epochs=self.epochs,
            wall_s=self.wall_s,
            cost_usd=self.wall_s * trial.offer.price.usd_per_h / 3600,
            error=None if ok else "exit code 1",
        )


@dataclass
class _Attempt:
    """Stands for a real launch."""

    law: Law
    prober: Prober
    key: str
    trial: Trial

    def run(self) -> ProbeResult:
        return self.law.result(self.prober, self.key, self.trial)


@pytest.fixture
def law(monkeypatch: pytest.MonkeyPatch) -> Law:
    """Probes are answered by a law instead of being launched; caps and events stay real."""
    law = Law()

    class LawProber(Prober):
        def _attempt(self, key: str, index: int, trial: Trial) -> Any:
            return _Attempt(law, self, key, trial)

    monkeypatch.setattr(gathering, "Prober", LawProber)
    return law


def job(folder: Path, *, usd_per_slot_h: float = 1.0, slots: int = 8, **probe: float) -> JobSpec:
    settings = {"slots": slots, "usd_per_slot_h": usd_per_slot_h}
    spec = scripted_job(folder)
    return replace(
        spec,
        global_batch=64,
        micro_batches=(8, 16, 32, 64),
        places=(Place(runner="local", pool="cpu", settings=settings),),
        probe=replace(ProbeSettings(steps=12, warmup_steps=3, max_cost_usd=50.0), **probe),
    )


def estimate(
    folder: Path,
    spec: JobSpec,
    goal: Goal | None = None,
    *,
    cancel: threading.Event | None = None,
    seen: list[tuple[str, Mapping[str, Any]]] | None = None,
    **request: Any,
) -> EstimateResult:
    asked = EstimateRequest(job=spec, goal=goal or TIGHT, **request)
    log: list[tuple[str, Mapping[str, Any]]] = [] if seen is None else seen
    return Estimator(folder / "state", SystemClock()).estimate(
        asked, lambda kind, data: log.append((kind, data)), cancel
    )


def first(folder: Path, spec: JobSpec) -> int:
    """How many probes the first design has."""
    asked = EstimateRequest(job=spec, goal=Goal())
    return len(Estimator(folder / "state", SystemClock()).plan_probes(asked).to_run)


def test_probing_goes_on_while_it_saves_more_than_it_costs(tmp_path: Path, law: Law) -> None:
    spec, seen = job(tmp_path, max_time_s=1e5, max_cost_usd=100.0), []
    law.wall_s = 400.0
    design = first(tmp_path, spec)
    result = estimate(tmp_path, spec, Goal(deadline_s=66_000.0), seen=seen)
    assert len(law.made) > design
    assert len(law.made) == len(set(law.made))
    assert len(result.probe_decisions) == len(law.made) - design
    for made in result.probe_decisions:
        assert made.reason == "worth"
        assert made.saves_usd is not None and made.saves_usd > made.cost_usd
    assert result.next_probe is not None
    assert result.next_probe.reason in ("not_worth", "settled")
    decided = [data["reason"] for kind, data in seen if kind == "probe.decided"]
    assert decided == ["worth"] * len(result.probe_decisions) + [result.next_probe.reason]


def test_a_short_job_is_not_probed_beyond_the_first_few(tmp_path: Path, law: Law) -> None:
    law.epochs = 3
    spec = job(tmp_path)
    design = first(tmp_path, spec)
    result = estimate(tmp_path, spec)
    assert len(law.made) == design
    assert result.probe_decisions == ()
    probe = result.next_probe
    assert probe is not None and probe.saves_usd is not None
    assert probe.reason in ("not_worth", "settled")
    assert probe.saves_usd < probe.cost_usd


def test_the_same_evidence_is_not_probed_anew(tmp_path: Path, law: Law) -> None:
    spec = job(tmp_path)
    once = estimate(tmp_path, spec, Goal(deadline_s=66_000.0))
    count = len(law.made)
    again = estimate(tmp_path, spec, Goal(deadline_s=66_000.0))
    assert len(law.made) == count
    assert once.next_probe is not None and again.next_probe is not None
    assert again.next_probe.option_id == once.next_probe.option_id
    assert again.next_probe.reason == once.next_probe.reason


def test_no_probe_says_what_a_probe_would_buy_and_makes_none(tmp_path: Path, law: Law) -> None:
    estimate(tmp_path, job(tmp_path, max_cost_usd=0.07))  # enough for the first few
    count = len(law.made)
    result = estimate(tmp_path, job(tmp_path), probe=False)
    assert len(law.made) == count
    assert result.next_probe is not None
    assert result.next_probe.reason == "worth"
    assert explain.next_probe_text(result).endswith("worth it.")


def test_the_plan_shows_the_next_probe_where_the_first_are_kept(tmp_path: Path, law: Law) -> None:
    capped = estimate(tmp_path, job(tmp_path, max_cost_usd=0.07))
    estimator = Estimator(tmp_path / "state", SystemClock())
    plan = estimator.plan_probes(EstimateRequest(job=job(tmp_path), goal=TIGHT))
    assert capped.next_probe is not None and capped.next_probe.option_id is not None
    wanted = capped.option(capped.next_probe.option_id)
    assert wanted is not None
    assert plan.to_run == (explain.label(wanted),)
    assert plan.max_cost_usd == pytest.approx(8 * 1.0 * 900 / 3600)
    settled = estimator.plan_probes(EstimateRequest(job=job(tmp_path), goal=Goal(deadline_s=60.0)))
    assert settled.to_run == ()
    assert settled.max_cost_usd == 0


def test_no_probe_without_any_evidence_tells_the_price_of_the_first(
    tmp_path: Path, law: Law
) -> None:
    result = estimate(tmp_path, job(tmp_path), probe=False)
    assert law.made == [] and result.options == ()
    probe = result.next_probe
    assert probe is not None
    assert (probe.option_id, probe.reason) == (None, "unmeasured")
    assert probe.time_s > 0 and probe.cost_usd > 0
    assert explain.next_probe_text(result) == (
        "Next probe: $0.0083, 30s; without one nothing is known."
    )


@pytest.mark.parametrize("caps", [{"max_time_s": 130.0}, {"max_cost_usd": 0.09}])
def test_the_caps_are_kept(tmp_path: Path, law: Law, caps: dict[str, float]) -> None:
    result = estimate(tmp_path, job(tmp_path, **caps))
    new = [p for p in result.probes if p.state == "ok"]
    assert sum(p.wall_s for p in new) <= caps.get("max_time_s", 900.0)
    assert result.probe_cost_usd <= caps.get("max_cost_usd", 50.0)
    assert result.next_probe is not None
    assert result.next_probe.reason == "cap"
    assert "beyond what probes may take" in explain.next_probe_text(result)


def test_who_stops_probing_gets_the_estimate_from_what_there_is(tmp_path: Path, law: Law) -> None:
    spec, cancel = job(tmp_path), threading.Event()
    design = first(tmp_path, spec)

    class Stopping(list[tuple[str, Mapping[str, Any]]]):
        def append(self, event: tuple[str, Mapping[str, Any]]) -> None:
            super().append(event)
            if sum(kind == "probe.finished" for kind, _ in self) == design:
                cancel.set()

    seen = Stopping()
    result = estimate(tmp_path, spec, cancel=cancel, seen=seen)
    assert len(law.made) == design
    assert result.options
    assert result.next_probe is not None
    assert result.next_probe.reason == "stopped"


def test_a_probe_that_fails_is_not_tried_again(tmp_path: Path, law: Law) -> None:
    spec = job(tmp_path)
    design = first(tmp_path, spec)
    ok = law.result

    def fails(prober: Prober, key: str, trial: Trial) -> ProbeResult:
        law.state = "ok" if len(law.made) < design else "failed"
        return ok(prober, key, trial)

    law.result = fails  # type: ignore[method-assign]
    result = estimate(tmp_path, spec)
    assert len(law.made) == len(set(law.made)) > design
    assert result.options
    assert result.next_probe is not None


def test_where_every_probe_failed_nothing_is_said_of_the_next(tmp_path: Path, law: Law) -> None:
    law.state = "failed"
    result = estimate(tmp_path, job(tmp_path))
    assert result.next_probe is None
    assert explain.next_probe_text(result) == ""


def test_a_single_configuration_leaves_nothing_to_try(tmp_path: Path, law: Law) -> None:
    spec = replace(job(tmp_path, slots=1), micro_batches=(64,))
    result = estimate(tmp_path, spec)
    assert len(law.made) == 1
    assert result.next_probe is not None
    assert result.next_probe.reason == "all_tried"
    assert explain.next_probe_text(result) == "Next probe: none: every configuration was tried."


def test_a_goal_that_nothing_can_meet_is_not_probed_for(tmp_path: Path, law: Law) -> None:
    spec = job(tmp_path)
    design = first(tmp_path, spec)
    result = estimate(tmp_path, spec, Goal(deadline_s=60.0))
    assert len(law.made) == design
    assert result.recommendation.option_id is None
    assert result.next_probe is not None
    assert result.next_probe.reason in ("settled", "not_worth")


def test_a_time_that_is_no_number_does_not_settle_what_is_open(tmp_path: Path, law: Law) -> None:
    estimate(tmp_path, job(tmp_path, max_cost_usd=0.07))
    real = law.result

    def broken(prober: Prober, key: str, trial: Trial) -> ProbeResult:
        found = real(prober, key, trial)
        return replace(found, step_time_s=(nan, *found.step_time_s))

    law.result = broken  # type: ignore[method-assign]
    result = estimate(tmp_path / "other", job(tmp_path, max_cost_usd=0.07))
    assert result.next_probe is not None
    assert isfinite(result.next_probe.time_s)
    assert result.next_probe.reason == "cap"


def test_probes_that_contradict_each_other_are_borne(tmp_path: Path, law: Law) -> None:
    law.noise = 0.8
    result = estimate(tmp_path, job(tmp_path))
    assert result.next_probe is not None
    assert result.next_probe.p_change is None or 0 <= result.next_probe.p_change <= 1


def test_another_goal_forgets_what_a_probe_would_buy(tmp_path: Path, law: Law) -> None:
    law.epochs = 3
    result = estimate(tmp_path, job(tmp_path))
    estimator = Estimator(tmp_path / "state", SystemClock())
    assert estimator.rescore(result, result.goal).next_probe == result.next_probe
    assert estimator.rescore(result, Goal(budget_usd=3.0)).next_probe is None
