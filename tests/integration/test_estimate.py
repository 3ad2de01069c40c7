"""Estimates from probe to pick, run for real with scripts of the standard library."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support.scripts import scripted_job

from planner.core.clock import SystemClock
from planner.core.errors import DataError, ExitCode, NotFoundError, StoreError, UsageError
from planner.core.events import ignore
from planner.core.job import Goal, JobSpec, Place
from planner.core.types import EstimateResult, ProbeResult
from planner.services.api import EstimateRequest
from planner.services.estimating import probestore
from planner.services.estimating.estimate import Estimator
from planner.store.layout import StateDir
from planner.wire.to_wire import estimate_document

GOAL = Goal(deadline_s=600, budget_usd=1.0)


def request(job: JobSpec, **changes: Any) -> EstimateRequest:
    return replace(EstimateRequest(job=job, goal=GOAL), **changes)


@pytest.fixture
def estimator(tmp_path: Path) -> Estimator:
    return Estimator(tmp_path / "state", SystemClock())


def codes(result: EstimateResult) -> list[str]:
    return [w.code for w in result.warnings]


def test_from_nothing_to_a_pick(tmp_path: Path, estimator: Estimator) -> None:
    seen: list[str] = []

    def on_event(kind: str, _data: Mapping[str, Any]) -> None:
        seen.append(kind)

    job = scripted_job(tmp_path)
    result = estimator.estimate(request(job), on_event)
    assert [p.state for p in result.probes] == ["ok"] * 3
    assert {o.resources.workers for o in result.options} == {1, 2}
    assert all(
        o.resources.workers * o.knobs.micro_batch * o.knobs.accumulation == 16
        for o in result.options
    )
    pick = result.option(result.recommendation.option_id or "")
    assert pick is not None
    assert pick.feasible
    assert pick.rank == 1
    assert pick.p_deadline is not None
    assert pick.p_deadline >= 0.9
    assert result.work.samples == 96
    assert result.work.tail_samples == 12
    assert result.work.slice_fraction == pytest.approx(32 / 96)
    assert result.probe_cost_usd == pytest.approx(sum(p.cost_usd for p in result.probes))
    assert result.probe_cost_usd > 0
    assert seen[0] == "estimate.started"
    assert seen[-2:] == ["model.fitted", "estimate.completed"]
    assert "memory.rss" in codes(result)


def test_one_probe_alone_and_one_that_was_slowed_are_told(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path)
    first = estimator.estimate(request(job), ignore)
    state = StateDir(tmp_path / "state")

    def again(*probes: ProbeResult) -> EstimateResult:
        for path in state.probes.glob("p-*.json"):
            path.unlink()
        for probe in probes:
            probestore.keep(state, probe)
        return estimator.estimate(request(job, probe=False), ignore)

    def timed(probe: ProbeResult, step_s: float) -> ProbeResult:
        return replace(probe, step_time_s=(step_s,) * 12)

    good = [timed(p, 0.2) for p in first.probes if p.resources.workers == 1]
    alone, slowed = again(good[0]), again(*good[:-1], timed(good[-1], 20.0))
    assert "probe.only_one" in codes(alone)
    assert {"probe.outlier", "probe.disagree"} & set(codes(slowed))
    told = {w["code"]: w for w in estimate_document(slowed)["warnings"]}
    assert all(w["text"] and w["hint"] for c, w in told.items() if c.startswith("probe."))
    for result in (alone, slowed):
        assert all(o.total_s.p95 > 1.2 * o.total_s.p05 > 0 for o in result.options)


def test_the_deadline_counts_from_when_it_was_stated(tmp_path: Path, estimator: Estimator) -> None:
    now = SystemClock().now()
    goal = Goal(deadline_s=600, deadline_at=now - timedelta(seconds=1))
    result = estimator.estimate(request(scripted_job(tmp_path), goal=goal), ignore)
    assert not any(o.feasible for o in result.options)
    assert result.recommendation.option_id is None


def test_what_is_left_of_the_deadline_adds_up(tmp_path: Path, estimator: Estimator) -> None:
    stated_at = SystemClock().now()
    goal = Goal(deadline_s=20.0, deadline_at=stated_at + timedelta(seconds=20))
    result = estimator.estimate(request(scripted_job(tmp_path), goal=goal), ignore)
    document = estimate_document(result)
    asked = document["goal"]
    ends, made = (datetime.fromisoformat(t) for t in (asked["deadline_at"], document["created_at"]))
    assert asked["deadline_s"] == 20
    assert ends - stated_at == timedelta(seconds=20)
    left_s = (ends - made).total_seconds()
    assert 20 - left_s >= sum(p.wall_s for p in result.probes)
    for option in result.options:
        assert option.p_deadline == pytest.approx(option.total_s.prob_below(left_s))


# ---- reuse


def test_probes_are_reused_and_their_age_is_told(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    plan = estimator.plan_probes(request(job))
    assert len(plan.to_run) == 3
    assert plan.reused == ()
    first = estimator.estimate(request(job), ignore)
    plan = estimator.plan_probes(request(job))
    assert plan.to_run == ()
    assert {p.id for p in plan.reused} == {p.id for p in first.probes}
    assert (plan.expected_s, plan.max_cost_usd) == (0, 0)
    started: list[str] = []
    second = estimator.estimate(request(job), lambda kind, _: started.append(kind))
    assert "probe.started" not in started
    assert started.count("probe.finished") == 3
    assert second.probe_cost_usd == 0
    assert {p.id: p for p in second.probes} == {p.id: p for p in first.probes}
    assert "probe.reused" in codes(second)
    assert [o.id for o in second.options] == [o.id for o in first.options]


def test_two_at_once_take_turns_and_the_second_reuses(tmp_path: Path) -> None:
    """Probes that run side by side would measure each other."""
    job, seen = scripted_job(tmp_path), []

    def estimate(number: int) -> EstimateResult:
        def on_event(kind: str, data: Mapping[str, Any]) -> None:
            seen.append((number, kind, data.get("reused")))

        return Estimator(tmp_path / "state", SystemClock()).estimate(request(job), on_event)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(estimate, range(2)))
    assert [kind for _, kind, _ in seen].count("log.line") == 1
    measured = {number for number, kind, _ in seen if kind == "probe.started"}
    reused = [number for number, _, again in seen if again]
    assert len(measured) == 1
    assert len(reused) == 3 and not measured & set(reused)


def test_who_is_told_to_end_while_waiting_does(tmp_path: Path, estimator: Estimator) -> None:
    cancel = threading.Event()
    with FileLock(StateDir(tmp_path / "state").locks / "probing.lock"):
        result = estimator.estimate(
            request(scripted_job(tmp_path)), lambda kind, _: cancel.set(), cancel
        )
    assert result.options == ()


def test_another_goal_or_price_or_place_needs_no_new_probe(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path)
    estimator.estimate(request(job), ignore)
    dearer = Place(runner="local", pool="cpu", settings={"slots": 2, "usd_per_slot_h": 9.0})
    changed = replace(job, epochs=50, places=(dearer,))
    plan = estimator.plan_probes(request(changed, goal=Goal(budget_usd=3.0)))
    assert plan.to_run == ()


def test_a_changed_script_is_probed_anew(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    estimator.estimate(request(job), ignore)
    script = Path(job.workdir) / "train.py"
    script.write_text(script.read_text() + "# one more line\n")
    assert len(estimator.plan_probes(request(job)).to_run) == 3


def test_fresh_measures_again(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    first = estimator.estimate(request(job), ignore)
    again = estimator.estimate(request(job, fresh=True), ignore)
    assert {p.id for p in again.probes} == {p.id for p in first.probes}
    assert all(a.measured_at > f.measured_at for a in again.probes for f in first.probes)
    assert "probe.reused" not in codes(again)


def test_more_steps_than_were_measured_are_probed_anew(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path)
    estimator.estimate(request(job), ignore)
    thorough = replace(job, probe=replace(job.probe, steps=24))
    assert len(estimator.plan_probes(request(thorough)).to_run) == 3


def test_without_probing_only_kept_results_count(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    empty = estimator.estimate(request(job, probe=False), ignore)
    assert empty.options == ()
    assert "probe.all_failed" in codes(empty)
    estimator.estimate(request(job), ignore)
    assert estimator.estimate(request(job, probe=False), ignore).options


def test_a_damaged_kept_probe_is_measured_again(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    estimator.estimate(request(job), ignore)
    kept = sorted((tmp_path / "state" / "probes").glob("p-*.json"))
    kept[0].write_text(kept[0].read_text()[:100])
    assert len(estimator.plan_probes(request(job)).to_run) == 1


# ---- what the script tells


def test_a_script_tells_its_own_batch(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path, global_batch=None)
    result = estimator.estimate(request(job), ignore)
    assert {o.knobs.global_batch for o in result.options} == {32}
    assert len(result.probes) == 3
    assert "job.global_batch_assumed" not in codes(result)
    assert estimator.plan_probes(request(job)).to_run == ()


def test_a_batch_that_nobody_tells_is_assumed_with_a_warning(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path, "silent batch", global_batch=None)
    result = estimator.estimate(request(job), ignore)
    assert {o.knobs.global_batch for o in result.options} == {64}
    assert "job.global_batch_assumed" in codes(result)


def test_a_script_that_does_not_obey_is_told_of(tmp_path: Path, estimator: Estimator) -> None:
    result = estimator.estimate(request(scripted_job(tmp_path, "own batch")), ignore)
    assert "job.global_batch_ignored" in codes(result)
    assert {p.knobs.global_batch for p in result.probes} == {8}
    assert estimator.plan_probes(request(scripted_job(tmp_path, "own batch"))).to_run == ()


def test_the_epochs_that_the_script_makes_are_planned_for(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path, epochs=5)
    result = estimator.estimate(request(job), ignore)
    assert result.work.epochs == 3
    assert "job.epochs_differ" in codes(result)
    told = replace(job, command=(*job.command, "", "{epochs}"))
    result = estimator.estimate(request(told), ignore)
    assert result.work.epochs == 5
    assert "job.epochs_differ" not in codes(result)


def test_without_the_sdk_the_jobs_word_is_taken_and_said(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path, "", tier=0, worker_counts=(1,))
    result = estimator.estimate(request(job), ignore)
    assert [o.knobs.accumulation for o in result.options] == [1]
    assert "job.work_untold" in codes(result)


def test_samples_of_opaque_data_come_from_the_job(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path, samples=500, data=None)
    job = replace(job, command=("python", "train.py", "no-folder"))
    result = estimator.estimate(request(job), ignore)
    assert result.work.samples == 500


def test_when_nothing_tells_the_samples_the_user_is_asked(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path, data=None)
    job = replace(job, command=("python", "train.py", "no-folder"))
    with pytest.raises(UsageError, match="how many samples") as caught:
        estimator.estimate(request(job), ignore)
    assert "samples" in (caught.value.hint or "")
    assert estimator.plan_probes(request(job)).to_run == ()


# ---- what goes wrong


def test_when_every_probe_fails_the_document_says_why(tmp_path: Path, estimator: Estimator) -> None:
    result = estimator.estimate(request(scripted_job(tmp_path, "import")), ignore)
    assert result.options == ()
    assert result.recommendation.option_id is None
    assert "nothing_like_this" in result.recommendation.text
    assert [p.state for p in result.probes] == ["failed", "failed", "skipped"]
    assert "probe.all_failed" in codes(result)
    assert codes(result).count("probe.failed") == 2
    assert estimator.load_estimate(result.id) == result


def test_failures_are_not_kept_but_out_of_memory_is(tmp_path: Path, estimator: Estimator) -> None:
    failing = scripted_job(tmp_path, "step 7")
    estimator.estimate(request(failing), ignore)
    assert len(estimator.plan_probes(request(failing)).to_run) == 3
    too_big = scripted_job(tmp_path, "oom")
    result = estimator.estimate(request(too_big), ignore)
    assert [p.state for p in result.probes] == ["oom", "ok", "ok"]
    assert "probe.oom" in codes(result)
    assert estimator.plan_probes(request(too_big)).to_run == ()


def test_a_corrupt_image_is_found_before_anything_is_started(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path)
    bad = Path(job.data or "") / "val" / "b" / "2.png"
    bad.write_bytes(bad.read_bytes()[:5])
    seen: list[str] = []
    with pytest.raises(DataError, match=str(bad)) as caught:
        estimator.estimate(request(job), lambda kind, _: seen.append(kind))
    assert caught.value.exit_code == ExitCode.USAGE
    assert seen == []


def test_a_missing_runner_is_a_warning_while_another_is_left(
    tmp_path: Path, estimator: Estimator
) -> None:
    job = scripted_job(tmp_path)
    job = replace(job, places=(Place(runner="no-such-runner", pool="x"), *job.places))
    assert "runner.unavailable" in codes(estimator.estimate(request(job), ignore))


def test_a_state_directory_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    estimator = Estimator(tmp_path / "state", SystemClock())
    with pytest.raises(StoreError) as caught:
        estimator.estimate(request(scripted_job(tmp_path)), ignore)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


# ---- kept estimates


def test_estimates_are_kept_and_found_again(tmp_path: Path, estimator: Estimator) -> None:
    job = scripted_job(tmp_path)
    assert estimator.latest_estimate() is None
    first = estimator.estimate(request(job), ignore)
    assert estimator.load_estimate(first.id) == first
    assert estimator.latest_estimate() == first
    assert estimator.latest_estimate(replace(job, goal=Goal())) == first
    assert estimator.latest_estimate(replace(job, epochs=99)) is None
    script = Path(job.workdir) / "train.py"
    script.write_text(script.read_text() + "# changed\n")
    assert estimator.latest_estimate(job) is None


@pytest.mark.parametrize("name", ["e-nothing", "../../secret", ""])
def test_an_unknown_estimate_is_told(estimator: Estimator, name: str) -> None:
    with pytest.raises(NotFoundError):
        estimator.load_estimate(name)


def test_what_if_changes_the_goal_and_nothing_else(tmp_path: Path, estimator: Estimator) -> None:
    result = estimator.estimate(request(scripted_job(tmp_path)), ignore)
    hopeless = estimator.rescore(result, Goal(deadline_s=0.001))
    assert hopeless.recommendation.option_id is None
    assert {o.id: o.total_s for o in hopeless.options} == {o.id: o.total_s for o in result.options}
    back = estimator.rescore(hopeless, GOAL)
    assert back.recommendation.option_id == result.recommendation.option_id
    assert back.recommendation.text == result.recommendation.text
    # Sums are taken in another order, so flip points agree to rounding only.
    assert [(f.to, f.variable) for f in back.recommendation.flips] == [
        (f.to, f.variable) for f in result.recommendation.flips
    ]
    assert [f.value for f in back.recommendation.flips] == pytest.approx(
        [f.value for f in result.recommendation.flips]
    )
    assert {o.id: o.rank for o in back.options} == {o.id: o.rank for o in result.options}


def test_what_if_without_options_stays_without(tmp_path: Path, estimator: Estimator) -> None:
    empty = estimator.estimate(request(scripted_job(tmp_path), probe=False), ignore)
    again = estimator.rescore(empty, Goal(deadline_s=5))
    assert again.options == ()
    assert again.recommendation == empty.recommendation


def test_resources_are_what_the_places_offer(tmp_path: Path, estimator: Estimator) -> None:
    assert [r.workers for r in estimator.resources(scripted_job(tmp_path))] == [1, 2]


# ---- light


def test_a_cached_estimate_imports_nothing_heavy(tmp_path: Path, estimator: Estimator) -> None:
    estimator.estimate(request(scripted_job(tmp_path)), ignore)
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from planner.core.clock import SystemClock
from planner.core.events import ignore
from planner.core.job import Goal
from planner.services.api import EstimateRequest
from planner.services.estimating import probestore
from planner.services.estimating.estimate import Estimator
from support.scripts import scripted_job
job = scripted_job(Path({str(tmp_path)!r}))
estimator = Estimator(Path({str(tmp_path / "state")!r}), SystemClock())
result = estimator.estimate(EstimateRequest(job=job, goal=Goal(deadline_s=600)), ignore)
assert result.options and not result.probe_cost_usd
print(sorted({{"torch", "sklearn", "xgboost", "pandas", "scipy", "textual"}} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
