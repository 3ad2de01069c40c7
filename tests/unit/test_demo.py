"""The demo: a recorded session behind the same calls as a live one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from support.recorded import GOAL, JOB, NOW, sample_recording

from planner.core.adjust import parse_wish
from planner.core.adjustrules import AdjustRefusedError
from planner.core.clock import ManualClock
from planner.core.errors import NotFoundError, TransitionError, UsageError
from planner.core.types import RunState
from planner.demo import record as recorder
from planner.demo.recording import BUNDLED, RecordedRun, read_recording, recording_text
from planner.services.api import EstimateRequest, LaunchRequest
from planner.services.demo import PROBES_TAKE_S, RUN_TAKES_S, DemoServices
from planner.services.demoadjust import MADE_UP
from planner.store.files import save, write_atomic
from planner.store.journal import Journal
from planner.store.layout import StateDir, make_folder

REQUEST = EstimateRequest(job=JOB, goal=GOAL)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW + timedelta(days=30))


@pytest.fixture
def demo(clock: ManualClock) -> DemoServices:
    return DemoServices(sample_recording(), clock)


def launched(demo: DemoServices) -> str:
    estimate = demo.estimate(REQUEST, lambda *_: None)
    option_id = estimate.recommendation.option_id
    assert option_id is not None
    return demo.launch(LaunchRequest(estimate=estimate, option_id=option_id))


def test_probes_are_replayed_in_about_the_time_they_are_given(
    demo: DemoServices, clock: ManualClock
) -> None:
    seen: list[str] = []
    began = clock.monotonic_s()
    estimate = demo.estimate(REQUEST, lambda kind, _data: seen.append(kind))
    took_s = clock.monotonic_s() - began
    assert took_s == pytest.approx(PROBES_TAKE_S, rel=0.1)
    assert seen.count("probe.finished") == 3
    assert estimate.created_at > NOW


def test_a_second_estimate_reuses_the_probes(demo: DemoServices, clock: ManualClock) -> None:
    demo.estimate(REQUEST, lambda *_: None)
    began = clock.monotonic_s()
    assert demo.plan_probes(REQUEST).to_run == ()
    demo.estimate(REQUEST, lambda *_: None)
    assert clock.monotonic_s() == began


def test_probing_can_be_stopped(demo: DemoServices) -> None:
    class Stop:
        def is_set(self) -> bool:
            return True

    states: list[str] = []

    def take(kind: str, data: object) -> None:
        if kind == "probe.finished":
            states.append(data["probe"]["state"])  # type: ignore[index]

    demo.estimate(REQUEST, take, Stop())
    assert states == ["skipped"] * 3


def test_the_run_plays_to_its_end_in_its_time_and_is_judged(
    demo: DemoServices, clock: ManualClock
) -> None:
    run_id = launched(demo)
    progress = []
    for _ in range(10):
        clock.sleep(RUN_TAKES_S / 10)
        progress.append(demo.view(run_id).summary.progress)
    assert progress == sorted(progress)
    clock.sleep(1)
    view = demo.view(run_id)
    assert view.summary.state is RunState.DONE
    assert view.summary.within_interval is True
    assert view.summary.created_at > NOW + timedelta(days=29)
    assert view.decisions[0].at > NOW + timedelta(days=29)
    assert [e.seq for e in demo.events(run_id)] == list(range(len(demo.events(run_id))))


def test_log_lines_come_when_they_are_due_and_only_once(
    demo: DemoServices, clock: ManualClock
) -> None:
    run_id = launched(demo)
    first = demo.logs(run_id)
    clock.sleep(RUN_TAKES_S / 2)
    second = demo.logs(run_id, first.cursor)
    clock.sleep(RUN_TAKES_S)
    third = demo.logs(run_id, second.cursor)
    texts = [line.text for page in (first, second, third) for line in page.lines]
    assert texts == [line.text for line in sample_recording().runs[0].log]
    assert second.lines
    assert third.lines


def test_pausing_stands_still_and_resuming_goes_on(demo: DemoServices, clock: ManualClock) -> None:
    run_id = launched(demo)
    clock.sleep(RUN_TAKES_S / 2)
    demo.pause(run_id)
    step = demo.view(run_id).step
    clock.sleep(100)
    assert demo.view(run_id).summary.state is RunState.PAUSED
    assert demo.view(run_id).step == step
    with pytest.raises(TransitionError, match="paused"):
        demo.checkpoint(run_id)
    demo.resume(run_id)
    clock.sleep(RUN_TAKES_S)
    assert demo.view(run_id).summary.state is RunState.DONE
    with pytest.raises(TransitionError, match="is not paused"):
        demo.resume(run_id)


def test_extending_raises_goal_and_is_a_decision(demo: DemoServices, clock: ManualClock) -> None:
    run_id = launched(demo)
    clock.sleep(2)
    was = demo.view(run_id)
    demo.extend(run_id, deadline_s=600, budget_usd=2)
    view = demo.view(run_id)
    assert view.summary.budget_usd == 3.0
    assert was.plan.goal.deadline_at is not None
    assert view.plan.goal.deadline_at == was.plan.goal.deadline_at + timedelta(seconds=600)
    assert view.decisions[-1].mode == "you"


def test_a_change_is_expected_as_in_a_live_session_then_made_up_and_says_so(
    demo: DemoServices, clock: ManualClock
) -> None:
    run_id = launched(demo)
    clock.sleep(RUN_TAKES_S / 4)
    wish = parse_wish(["workers=2"], relaunch=False)
    told = demo.adjust(run_id, wish, dry_run=True)
    assert (told.what, told.how, told.basis) == ("workers 1 -> 2", "in_flight", "estimate")
    assert told.usd_per_h == 1.0
    assert MADE_UP in told.notes
    assert demo.view(run_id).adjustments == ()

    asked = demo.adjust(run_id, wish)
    clock.sleep(0.01)
    (change,) = demo.view(run_id).adjustments
    assert (change.command, change.pending) == (asked.command, True)
    clock.sleep(RUN_TAKES_S / 4)
    view = demo.view(run_id)
    (change,) = view.adjustments
    assert (change.state, change.text) == ("done", MADE_UP)
    assert view.in_force is not None and view.in_force.workers == 2
    assert view.usd_per_h == 0.5
    decision = next(d for d in view.decisions if d.id == change.id)
    assert (decision.mode, decision.measured) == ("you", MADE_UP)
    assert demo.adjust(run_id, wish).how == "nothing"
    clock.sleep(RUN_TAKES_S)
    assert demo.view(run_id).summary.state is RunState.DONE


def test_a_change_waits_for_the_one_before_and_leaves_it_in_force(
    demo: DemoServices, clock: ManualClock
) -> None:
    run_id = launched(demo)
    clock.sleep(RUN_TAKES_S / 4)
    demo.adjust(run_id, parse_wish(["workers=2"], relaunch=False))
    demo.adjust(run_id, parse_wish(["loader_workers=1"], relaunch=False))
    assert demo.adjust(run_id, parse_wish(["workers=2"], relaunch=False)).how == "nothing"
    clock.sleep(RUN_TAKES_S / 2)
    view = demo.view(run_id)
    assert [change.state for change in view.adjustments] == ["done", "done"]
    assert view.in_force is not None
    assert (view.in_force.workers, view.in_force.knobs.loader_workers) == (2, 1)


def test_a_change_that_could_not_be_made_is_refused(demo: DemoServices, clock: ManualClock) -> None:
    run_id = launched(demo)
    clock.sleep(RUN_TAKES_S / 4)
    with pytest.raises(AdjustRefusedError, match="does not offer 9 workers"):
        demo.adjust(run_id, parse_wish(["workers=9"], relaunch=False))
    clock.sleep(RUN_TAKES_S)
    with pytest.raises(TransitionError, match="cannot be adjusted"):
        demo.adjust(run_id, parse_wish(["workers=2"], relaunch=False))


def test_only_the_recorded_option_can_be_launched_and_only_once(demo: DemoServices) -> None:
    run_id = launched(demo)
    assert launched(demo) == run_id
    estimate = demo.estimate(REQUEST, lambda *_: None)
    with pytest.raises(UsageError, match="no recording of a run with that option") as caught:
        demo.launch(LaunchRequest(estimate=estimate, option_id=estimate.options[-1].id))
    assert "option 1 of the table" in (caught.value.hint or "")


def test_runs_go_by_ids_prefixes_and_places(demo: DemoServices) -> None:
    run_id = launched(demo)
    assert [summary.id for summary in demo.runs()] == [run_id, "r-7f3k", "r-6c1a"]
    assert demo.resolve("@last") == run_id
    assert demo.resolve("@-2") == "r-7f3k"
    assert demo.resolve("r-6") == "r-6c1a"
    with pytest.raises(NotFoundError):
        demo.resolve("r-")
    comparison = demo.compare(["r-6c1a", "r-7f3k"])
    assert comparison.same_work
    assert {row.name for row in comparison.rows} >= {"time", "cost", "throughput"}


# ---- the recording -----------------------------------------------------------------------------


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(recording_text(sample_recording()))
    assert read_recording(path) == sample_recording()


def test_the_bundled_recording_is_real_small_and_names_no_machine() -> None:
    text = BUNDLED.read_text()
    recording = read_recording()
    assert len(text) < 400_000
    assert recording.source.note == ""
    assert recording.source.command.startswith("planner run ")
    assert len(recording.runs) >= 3
    assert re.findall(r"[\"' =](/(?:home|root|tmp|work|usr|opt|Users)/[^\"' ]*)", text) == []
    played = recording.runs[0]
    assert played.plan.option.id == recording.estimate.recommendation.option_id
    assert played.log


def test_the_bundled_recording_plays_to_its_end(clock: ManualClock) -> None:
    demo = DemoServices(clock=clock)
    estimate = demo.estimate(EstimateRequest(job=demo.job, goal=demo.job.goal), lambda *_: None)
    option_id = estimate.recommendation.option_id
    assert option_id is not None
    run_id = demo.launch(LaunchRequest(estimate=estimate, option_id=option_id))
    clock.sleep(2 * RUN_TAKES_S)
    view = demo.view(run_id)
    assert view.summary.state is RunState.DONE
    assert view.decisions


def kept(state: StateDir, run: RecordedRun) -> None:
    """Put a recorded run into a state directory, as if it had run there."""
    folder = state.run(run.plan.run_id)
    folder.create()
    save(folder.plan, run.plan)
    clock = ManualClock(run.plan.created_at)
    journal = Journal(folder.journal, run.plan.run_id, clock)
    for event in run.events:
        clock.sleep((event.ts - clock.now()).total_seconds())
        journal.append(event.type, event.data)
    journal.close()
    write_atomic(folder.report, json.dumps({"line": "done"}))


def test_a_recording_is_made_from_a_state_directory(tmp_path: Path) -> None:
    sample = sample_recording()
    state = StateDir(tmp_path / "state")
    secret = f"read {tmp_path}/state/data/x.png and /home/somebody/y.png"
    job = replace(JOB, workdir=str(tmp_path / "job"), data=str(tmp_path / "job" / "data"))
    estimate = replace(sample.estimate, job=job)
    make_folder(state.estimates)
    save(state.estimates / f"{estimate.id}.json", estimate)
    run = sample.runs[0]
    kept(state, replace(run, plan=replace(run.plan, job=job)))
    out = state.run(run.plan.run_id).attempt(1)
    make_folder(out.out(0).parent)
    out.out(0).write_text(f"one\n{secret}\n")
    target = tmp_path / "recording.json"
    code = recorder.main([str(tmp_path / "state"), run.plan.run_id, "--out", str(target)])
    assert code == 0
    recording = read_recording(target)
    made = recording.runs[0]
    assert recording.job.data == "./data"
    assert [e.type for e in made.events] == [e.type for e in run.events]
    assert [line.text for line in made.log if line.source == "train"] == [
        "one",
        "read STATE/data/x.png and PATH/y.png",
    ]
    assert str(tmp_path) not in target.read_text()
    DemoServices(recording, ManualClock()).runs()


def test_of_frequent_events_enough_for_a_sparkline_are_kept() -> None:
    event = sample_recording().runs[0].events[10]
    many = [replace(event, seq=n, type="run.progress") for n in range(1000)]
    thinned = recorder._thinned(many)
    assert len(thinned) <= recorder.MOST_EVENTS + 1
    assert (thinned[0].seq, thinned[-1].seq) == (0, 999)


def test_numbers_keep_the_digits_that_can_be_seen() -> None:
    values = (0.0, 123456.789, 0.000123456789)
    assert [recorder.rounded(v) for v in values] == [0.0, 123460.0, 0.00012346]
