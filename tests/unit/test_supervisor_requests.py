"""Requests to a running run, in evaluations as well: pause, cancel, extend, checkpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from planner.core.job import Goal
from planner.core.types import RunState
from planner.services.runs.commands import send
from planner.services.runs.runview import run_view
from planner.store.record import RunRecord
from tests.support.runs import START, make_case


def test_pause_keeps_a_checkpoint_and_resume_goes_on_from_it(tmp_path):
    case = make_case(tmp_path)
    case.clock.at(50, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    paused = case.record
    assert paused.checkpoint is not None and paused.checkpoint.reason == "stop"
    assert paused.checkpoint.step == paused.step > 0
    assert not paused.holding
    spent = paused.spent_microusd
    case.clock.sleep(86_400)
    assert case.go() is RunState.DONE
    record = case.record
    assert (record.step, record.attempt, record.steps_redone) == (200, 2, 0)
    assert record.idle_s == pytest.approx(86_400, abs=5)
    assert record.spent_microusd > spent
    assert record.total_s(case.clock.now()) < 300
    resumed = next(e for e in case.events if e.type == "run.resumed")
    assert resumed.data["step"] == paused.step


@pytest.mark.parametrize("faults", [(), ("crash@150#1",)])
def test_until_the_first_step_a_run_stands_where_it_goes_on_from(tmp_path, faults):
    case = make_case(tmp_path, faults=faults, samples=500, epochs=4, start_s=9.0)
    case.clock.at(80, lambda: case.send("pause") if not faults else None)
    case.go()
    if not faults:
        assert case.go() is RunState.DONE
    events = case.events
    (again,) = [e.seq for e in events if e.type == "run.provisioning" and e.data["attempt"] == 2]
    ended = RunRecord.replay(events[:again])
    kept = ended.checkpoint
    assert kept.step > 50 and kept.epoch >= 1
    seen = [RunRecord.replay(events[:end]) for end in range(again + 1, len(events) + 1)]
    before = next(i for i, record in enumerate(seen) if record.step > kept.step)
    assert sum(e.type == "run.progress" for e in events[again : again + before]) > 2
    for record in seen[:before]:
        assert (record.step, record.epoch) == (kept.step, kept.epoch)
        assert record.progress == pytest.approx(kept.step / 200, abs=1e-4)
    assert seen[-1].steps_redone == ended.step - kept.step >= bool(faults)


def test_the_last_step_of_a_stop_is_not_behind_its_checkpoint(tmp_path):
    """As of a job that saves and leaves without a word of the steps since it last spoke."""
    case = make_case(tmp_path, goal=Goal(budget_usd=0.08))
    assert case.go() is RunState.STOPPED_BY_CAP
    said = [e for e in case.events if e.type in ("run.created", "run.checkpoint")]
    saved = RunRecord.replay(said)
    assert saved.step == saved.checkpoint.step == case.record.step > 0
    assert f"checkpoint of step {case.record.step} kept" in case.record.reason


def test_the_chance_to_be_on_time_follows_an_extension_at_once(tmp_path):
    goal = Goal(deadline_at=START + timedelta(seconds=100), deadline_s=100.0)
    case = make_case(tmp_path, goal=goal)
    case.clock.at(60, lambda: case.send("extend", deadline_s=600.0))
    case.go()
    events = case.events
    extended = next(i for i, e in enumerate(events) if e.data.get("deadline_at") and i)
    chances = [
        run_view(
            case.plan, RunRecord.replay(events[:end]), events[end - 1].ts, supervisor_alive=True
        ).p_deadline
        for end in range(extended, extended + 6)
    ]
    assert chances[0] < 0.05
    assert min(chances[1:]) > 0.95


def test_a_paused_run_without_a_checkpoint_has_kept_nothing(tmp_path):
    case = make_case(tmp_path)
    case.clock.at(50, lambda: case.send("pause"))
    case.go()
    kept = run_view(case.plan, case.record, case.clock.now(), supervisor_alive=False)
    assert kept.step > 0 and kept.summary.progress > 0
    unsaved = RunRecord.replay(e for e in case.events if e.type != "run.checkpoint")
    lost = run_view(case.plan, unsaved, case.clock.now(), supervisor_alive=False)
    assert (lost.step, lost.epoch, lost.summary.progress) == (0, 0, 0.0)


def test_cancel_checkpoints_and_is_final(tmp_path):
    case = make_case(tmp_path)
    case.clock.at(50, lambda: case.send("cancel"))
    assert case.go() is RunState.CANCELLED
    assert case.record.checkpoint.reason == "stop"
    assert case.go() is RunState.CANCELLED
    assert case.record.attempt == 1


def test_cancel_now_does_not_wait_for_a_checkpoint(tmp_path):
    case = make_case(tmp_path, checkpoint_s=15.0, checkpoint_interval_s=1000.0)
    case.clock.at(50, lambda: case.send("cancel", now=True))
    assert case.go() is RunState.CANCELLED
    assert case.clock.elapsed_s < 53
    assert case.record.checkpoint is None
    assert case.record.reason == "no checkpoint"


def test_a_pause_may_be_overruled_by_cancel_now(tmp_path):
    case = make_case(tmp_path, checkpoint_s=15.0, checkpoint_interval_s=1000.0)
    case.clock.at(50, lambda: case.send("pause"))
    case.clock.at(53, lambda: case.send("cancel", now=True))
    assert case.go() is RunState.CANCELLED
    assert case.clock.elapsed_s < 56


def test_a_checkpoint_can_be_asked_for(tmp_path):
    case = make_case(tmp_path, checkpoint_interval_s=1000.0)
    case.clock.at(30, lambda: case.send("checkpoint"))
    case.go()
    reasons = [e.data["reason"] for e in case.events if e.type == "run.checkpoint"]
    assert reasons == ["request", "end"]


def test_a_request_is_carried_out_once_even_if_its_file_comes_back(tmp_path):
    """As after a supervisor that died between writing the request down and removing it."""
    case = make_case(tmp_path, goal=Goal(budget_usd=1.0))
    command = send(case.run.commands, case.clock, "extend", budget_usd=0.5)
    path = case.run.commands / f"{command.id}.json"
    content = path.read_text()
    case.clock.at(20, lambda: path.write_text(content))
    case.go()
    assert case.record.budget_microusd == 1_500_000
    assert not path.exists()


def test_a_damaged_request_is_told_and_removed(tmp_path):
    case = make_case(tmp_path)
    (case.run.commands / "0.json").write_text('{"action": "expl')
    assert case.go() is RunState.DONE
    assert case.warnings() == ["command.damaged"]
    assert list(case.run.commands.iterdir()) == []


def test_a_pause_before_anything_ran_holds_nothing(tmp_path):
    case = make_case(tmp_path)
    case.send("pause")
    assert case.go() is RunState.PAUSED
    assert "resource.acquired" not in case.kinds()
    assert case.go() is RunState.DONE


def test_a_cancel_before_anything_ran(tmp_path):
    case = make_case(tmp_path)
    case.send("cancel")
    assert case.go() is RunState.CANCELLED
    assert case.states() == ["planned", "cancelled"]


def test_the_supervisors_own_sigterm_pauses_with_a_checkpoint(tmp_path):
    case = make_case(tmp_path)
    loop = case.loop()
    case.clock.at(50, loop.ask_to_stop)
    assert loop.run() is RunState.PAUSED
    loop.book.journal.close()
    assert case.record.stop_reason == "supervisor"
    assert case.record.checkpoint.reason == "stop"


def test_a_job_that_finishes_while_it_is_being_paused_is_done(tmp_path):
    case = make_case(tmp_path, epochs=1, samples=100, checkpoint_s=4.0)
    case.clock.at(13, lambda: case.send("pause"))
    assert case.go() is RunState.DONE
    assert case.states() == ["planned", "provisioning", "running", "stopping", "done"]


def test_a_script_that_leaves_with_0_when_told_to_is_paused_not_done(tmp_path):
    for number, (action, state) in enumerate(
        [("pause", RunState.PAUSED), ("cancel", RunState.CANCELLED)]
    ):
        (tmp_path / str(number)).mkdir()
        case = make_case(tmp_path / str(number))
        poll = case.runner.poll

        def polled(handle, poll=poll):
            status = poll(handle)
            ended = [replace(w, exit_code=0) if w.exit_code == 75 else w for w in status.workers]
            return replace(status, workers=tuple(ended))

        case.runner.poll = polled
        case.clock.at(50, lambda case=case, action=action: case.send(action))
        assert case.go() is state
        assert 0 < case.record.progress < 1


def test_a_first_evaluation_that_computes_is_not_a_hang(tmp_path):
    """Five times the timeout of a hang; nothing told how long it would be."""
    case = make_case(tmp_path, tail_s=150.0, planned_run_s=100.0)
    assert case.go() is RunState.DONE
    assert (case.record.attempt, case.record.steps_redone) == (1, 0)


def test_an_evaluation_that_idles_is_ended_after_the_timeout(tmp_path):
    case = make_case(tmp_path, tail_s=150.0, planned_run_s=100.0, retries=0)
    measure = case.runner.measure
    case.runner.measure = lambda handle: [replace(m, cpu_fraction=0.0) for m in measure(handle)]
    assert case.go() is RunState.FAILED
    assert "hanging" in case.record.reason
    assert case.clock.elapsed_s < 150


def test_an_evaluation_that_never_ends_is_a_hang_at_last(tmp_path):
    case = make_case(tmp_path, tail_s=1e6, planned_run_s=100.0, retries=0)
    assert case.go() is RunState.FAILED
    assert 6 * 30 < case.clock.elapsed_s < 8 * 30 + 100


@pytest.mark.parametrize(("epochs", "at_s"), [(3, 80), (3, 290)])
def test_a_pause_waits_for_the_end_of_an_evaluation(tmp_path, epochs, at_s):
    """In the first one and in a later one: nothing of it is lost, and no step is done again."""
    case = make_case(tmp_path, tail_s=150.0, planned_run_s=100.0, epochs=epochs)
    case.clock.at(at_s, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    paused = case.record
    assert "force" not in paused.reason
    assert paused.checkpoint.reason == "stop" and paused.checkpoint.step == paused.step
    assert case.go() is RunState.DONE
    assert case.record.steps_redone == 0


def test_cancel_now_does_not_wait_for_an_evaluation(tmp_path):
    case = make_case(tmp_path, tail_s=150.0, planned_run_s=100.0)
    case.clock.at(80, lambda: case.send("cancel", now=True))
    assert case.go() is RunState.CANCELLED
    assert case.clock.elapsed_s < 83


def test_the_cap_keeps_the_money_for_an_evaluation(tmp_path):
    """It stops before an evaluation that it could not pay for, not with force in the middle."""
    case = make_case(tmp_path, tail_s=60.0, epochs=3, goal=Goal(budget_usd=0.27))
    assert case.go() is RunState.STOPPED_BY_CAP
    record = case.record
    assert record.spent_microusd <= 270_000
    assert "force" not in record.reason
    assert record.checkpoint.reason == "stop" and record.checkpoint.step == record.step
