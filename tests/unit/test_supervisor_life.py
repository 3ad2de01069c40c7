"""The life of a run on a clock that jumps: attempts, requests, failures, the end."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from planner.core.errors import StoreError
from planner.core.types import Goal, RunState
from planner.services.runs.commands import send
from planner.services.runs.runview import run_view
from planner.services.supervisor.book import LoopSettings
from planner.store import journal
from planner.store.files import load
from planner.store.record import RunRecord
from runners.base import Handle, Signal
from tests.support.runs import START, FakeClock, make_case


def test_a_run_that_goes_well(tmp_path):
    case = make_case(tmp_path)
    assert case.go() is RunState.DONE
    assert case.kinds() == [
        "run.created",
        "run.provisioning",
        "resource.acquired",
        "run.started",
        "resource.released",
        "run.finished",
    ]
    assert case.states() == ["planned", "provisioning", "running", "done"]
    record = case.record
    assert (record.step, record.steps_total, record.progress) == (200, 200, 1.0)
    assert record.metrics.keys() >= {"loss", "val_accuracy"}
    assert record.checkpoint is not None and record.checkpoint.step == 200
    assert record.spent_microusd == pytest.approx(record.held_s * 1000, rel=1e-6)
    report = json.loads(case.run.report.read_text())
    assert report["time_s"]["within"] is True
    assert report["cost_usd"]["within"] is True
    assert report["metrics"]["val_accuracy"] > 0.7
    assert report["times_s"]["steps"] > 0.8 * report["held_s"]


def test_numbers_of_the_journal_have_no_gaps_and_replay_to_the_same(tmp_path):
    case = make_case(tmp_path)
    case.go()
    assert [e.seq for e in case.events] == list(range(len(case.events)))
    assert case.record.gaps == 0


def test_six_hours_replay_in_a_moment_and_twice_the_same(tmp_path):
    """Six hours of steps of ten seconds; the wall time is only told, as machines differ."""
    looks = LoopSettings(poll_s=2.0)
    law = {"samples": 7200, "epochs": 3, "global_batch": 10, "sample_s": 1.0, "tail_s": 25.0}
    journals = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        case = make_case(tmp_path / name, settings=looks, checkpoint_interval_s=600.0, **law)
        began = time.perf_counter()
        assert case.go() is RunState.DONE
        print(f"six hours took {time.perf_counter() - began:.2f} s")
        assert case.clock.elapsed_s > 6 * 3600
        journals.append([(e.seq, e.ts, e.type, e.data.get("step")) for e in case.events])
    assert journals[0] == journals[1]
    assert len(journals[0]) < 25_000


def test_progress_is_told_at_most_every_two_seconds(tmp_path):
    case = make_case(tmp_path)
    case.go()
    at = [e.ts for e in case.events if e.type == "run.progress"]
    gaps = [(b - a).total_seconds() for a, b in pairwise(at[:-1])]
    assert min(gaps) >= 2.0
    metrics = [e for e in case.events if e.type == "run.metric"]
    assert len(metrics) <= 2 * len(at)


def test_the_remaining_time_is_near_the_truth(tmp_path):
    case = make_case(tmp_path)
    case.go()
    events = case.events
    end = events[-1].ts
    told = [e for e in events if e.type == "run.progress" and e.data["eta_s"]]
    inside = 0
    for event in told:
        left_s = (end - event.ts).total_seconds()
        quantiles = event.data["eta_s"]
        assert quantiles[10] == pytest.approx(left_s, rel=0.25, abs=6.0)
        inside += quantiles[0] - 5 <= left_s <= quantiles[-1] + 5
    assert inside > 0.9 * len(told)


# ---- requests


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


# ---- evaluations, which say nothing until they are over


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


# ---- what goes wrong


def test_a_crash_is_continued_from_the_last_checkpoint(tmp_path):
    case = make_case(tmp_path, faults=("crash@90#1",))
    assert case.go() is RunState.DONE
    record = case.record
    assert (record.attempt, record.step, record.interruptions) == (2, 200, 1)
    assert 0 < record.steps_redone < 60
    interrupted = next(e for e in case.events if e.type == "run.interrupted")
    assert interrupted.data["reason"] == (
        "worker 0 ended with exit code 1: RuntimeError: simulated crash at step 90"
    )
    decision = next(iter(record.decisions.values()))
    assert decision.action.startswith("start again from step ")
    assert decision.measured.startswith("back at step ")


def test_a_crash_that_comes_back_fails_with_its_reason_and_log(tmp_path):
    case = make_case(tmp_path, faults=("crash@7",))
    assert case.go() is RunState.FAILED
    record = case.record
    assert record.attempt == 3
    assert record.reason.endswith("RuntimeError: simulated crash at step 7")
    assert record.failure_log[-1] == "RuntimeError: simulated crash at step 7"
    assert [d.action for d in record.decisions.values()][-1] == "give up"
    assert not record.holding


def test_leaving_to_run_again_is_free_only_for_what_was_kept(tmp_path):
    """One that leaves at the same step again and again would never end."""
    case = make_case(tmp_path, faults=("crash@30x75",), checkpoint_interval_s=1e4, retries=1)
    assert case.go() is RunState.FAILED
    record = case.record
    assert record.attempt == 2
    assert "retries are used up" in list(record.decisions.values())[-1].why


def test_no_retries_means_none(tmp_path):
    case = make_case(tmp_path, faults=("crash@7",), retries=0)
    assert case.go() is RunState.FAILED
    assert case.record.attempt == 1


def test_two_attempts_without_a_step_are_enough(tmp_path):
    case = make_case(tmp_path, faults=("crash@1",), retries=9)
    assert case.go() is RunState.FAILED
    assert case.record.attempt == 2


def test_failed_can_be_resumed_with_fresh_retries(tmp_path):
    case = make_case(tmp_path, faults=("crash@90#1", "crash@91#2", "crash@92#3"))
    assert case.go() is RunState.FAILED
    assert case.go() is RunState.DONE
    assert case.record.attempt == 4


def test_workers_that_cannot_be_started_fail_the_run(tmp_path):
    case = make_case(tmp_path, faults=("no_start",))
    assert case.go() is RunState.FAILED
    assert "could not be started" in case.record.reason
    assert case.record.spent_microusd == 0


def test_a_hanging_run_is_killed_and_goes_on(tmp_path):
    case = make_case(tmp_path, faults=("hang@90#1",))
    assert case.go() is RunState.DONE
    record = case.record
    assert (record.attempt, record.step) == (2, 200)
    actions = [d.action for d in record.decisions.values()]
    assert actions[0] == "kill a run that hangs"
    cause = next(e.data["cause"] for e in case.events if e.type == "run.interrupted")
    assert cause == "hung"


def test_a_run_that_hangs_at_every_turn_fails(tmp_path):
    case = make_case(tmp_path, faults=("hang@5",))
    assert case.go() is RunState.FAILED
    assert "hanging" in case.record.reason


def test_a_slow_start_is_not_a_hang(tmp_path):
    case = make_case(tmp_path, start_s=80.0)
    assert case.go() is RunState.DONE
    assert case.record.attempt == 1


def test_a_start_that_never_ends_is_a_hang(tmp_path):
    case = make_case(tmp_path, start_s=1e9)
    case.runner.measure = lambda handle: []
    assert case.go() is RunState.FAILED
    assert case.record.attempt == 2


def test_a_hang_that_will_not_stop_is_ended_by_force(tmp_path):
    case = make_case(tmp_path, faults=("hang@60",), job_changes={"hang_timeout_s": 1000.0})
    case.clock.at(60, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    assert "by force" in case.record.reason


def test_a_price_above_the_agreed_one_is_not_paid(tmp_path):
    case = make_case(tmp_path, max_usd_per_h=1.0)
    assert case.go() is RunState.FAILED
    assert "agreed" in case.record.reason
    assert "resource.acquired" not in case.kinds()


def test_a_disk_without_room_for_the_handle_leaves_nothing_running(tmp_path, monkeypatch):
    case = make_case(tmp_path)

    def full(path, obj):
        raise StoreError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("planner.services.supervisor.launcher.save", full)
    assert case.go() is RunState.FAILED
    assert "No space left" in case.record.reason
    assert case.left_running() == []


def test_what_should_not_happen_releases_and_says_so(tmp_path, monkeypatch):
    case = make_case(tmp_path)
    monkeypatch.setattr("planner.services.supervisor.guards.Guards.look", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        case.go()
    assert case.record.state is RunState.FAILED
    assert "ZeroDivisionError" in case.record.reason
    assert case.left_running() == []
    assert not case.record.holding


def test_a_disk_that_is_full_for_a_while_costs_progress_and_nothing_else(tmp_path, monkeypatch):
    """From second 30 to 70 the journal cannot be written; training and the cap go on."""
    case = make_case(tmp_path, goal=Goal(budget_usd=1.0))
    full = False
    real_write = journal.write_all

    def write_all(handle, data):
        if full:
            os.write(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real_write(handle, data)

    monkeypatch.setattr(journal, "write_all", write_all)

    def fill(value):
        nonlocal full
        full = value

    case.clock.at(30, lambda: fill(True))
    case.clock.at(70, lambda: fill(False))
    assert case.go() is RunState.DONE
    record = case.record
    assert (record.gaps, record.attempt, record.step) == (0, 1, 200)
    assert record.spent_microusd == pytest.approx(record.held_s * 1000, rel=1e-6)
    at = [(e.ts - START).total_seconds() for e in case.events if e.type == "run.progress"]
    assert not any(31 < at_s < 69 for at_s in at)
    checkpoints = [e for e in case.events if e.type == "run.checkpoint"]
    assert any(31 < (e.ts - START).total_seconds() < 69 for e in checkpoints)


def test_a_full_disk_does_not_keep_a_run_from_being_stopped(tmp_path, monkeypatch):
    case = make_case(tmp_path)

    def full(path, content):
        raise StoreError(f"cannot write {path}: No space left on device")

    def fill():
        case.send("pause")
        monkeypatch.setattr("planner.services.supervisor.controlfile.write_atomic", full)

    case.clock.at(50, fill)
    assert case.go() is RunState.PAUSED
    assert case.record.checkpoint.reason == "stop"
    assert case.warnings() == ["control.failed"]


def test_metrics_that_are_not_numbers_are_told_and_do_no_harm(tmp_path):
    case = make_case(tmp_path)
    events = case.run.attempt(1).events(0)

    def diverge():
        with events.open("a") as file:
            file.write(
                '{"t": 1, "type": "metric", "step": 9, "values": {"loss": NaN, "lr": 0.1}}\n'
            )
            file.write('{"t": 1, "type": "checkpoint", "step": 9, "duration_s": Infinity}\n')
            file.write("garbage\n")

    case.clock.at(30, diverge)
    assert case.go() is RunState.DONE
    assert sorted(case.warnings()) == ["events.garbage", "metric.not_finite"]
    assert case.record.metrics["lr"] == 0.1


# ---- a supervisor that died


class Killed(BaseException):
    """Stands for kill -9: nothing after it is carried out."""


def die_at(case, kind, count=1):
    """Let the loop die right after it wrote its `count`-th event of a kind; then it is gone."""
    loop = case.loop()
    seen = 0
    append = loop.book.journal.append

    def dying(name, data, **more):
        nonlocal seen
        event = append(name, data, **more)
        seen += name == kind
        if seen == count:
            raise Killed
        return event

    loop.book.journal.append = dying
    loop._abort = lambda error: None  # a killed process cleans nothing up
    with pytest.raises(Killed):
        loop.run()
    loop.book.journal.close()


def assert_all_is_billed(case):
    """Every second that something was held is paid, at 0.001 $ a second."""
    held = sum(e.data["held_s"] for e in case.events if e.type == "resource.released")
    assert case.record.spent_microusd == pytest.approx(held * 1000, abs=3)
    assert held > 100


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("run.provisioning", 1),
        ("resource.acquired", 1),
        ("run.started", 1),
        ("run.progress", 1),
        ("run.progress", 20),
        ("run.checkpoint", 2),
        ("resource.released", 1),
    ],
)
def test_a_supervisor_may_die_anywhere(tmp_path, kind, count):
    case = make_case(tmp_path)
    die_at(case, kind, count)
    case.clock.sleep(2.0)
    assert case.go() is RunState.DONE
    record = case.record
    assert record.step == 200
    assert record.gaps == 0
    assert not record.holding
    assert case.left_running() == []
    assert_all_is_billed(case)


def test_old_workers_leave_in_order_before_new_ones_start(tmp_path):
    """They still run when the next supervisor comes: their checkpoint is the one to go on from."""
    case = make_case(tmp_path, checkpoint_interval_s=1000.0)
    die_at(case, "run.progress", 20)
    before = case.record.step
    case.go()
    released = [e.seq for e in case.events if e.type == "resource.released"]
    acquired = [e.seq for e in case.events if e.type == "resource.acquired"]
    assert acquired[0] < released[0] < acquired[1] < released[1]
    resumed = next(e for e in case.events if e.type == "run.resumed")
    assert resumed.data["step"] >= before
    assert case.record.steps_redone == 0


def test_workers_that_finished_unseen_are_not_started_again(tmp_path):
    case = make_case(tmp_path)
    die_at(case, "run.progress", 20)
    case.clock.sleep(86_400)
    assert case.go() is RunState.DONE
    record = case.record
    assert record.attempt == 1
    assert record.metrics["val_accuracy"] > 0.7
    # The day until somebody looked is neither the run's time nor its money.
    finished = json.loads(case.run.attempt(1).events(0).read_text().splitlines()[-1])
    assert record.ended_at.timestamp() == pytest.approx(finished["t"], abs=0.1)
    truth_s = (record.ended_at - record.created_at).total_seconds()
    assert truth_s < 200
    assert record.total_s(case.clock.now()) == pytest.approx(truth_s)
    assert case.events[-1].data["total_s"] == pytest.approx(truth_s)
    assert_all_is_billed(case)
    report = json.loads(case.run.report.read_text())
    assert report["time_s"]["within"] is True


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("run.provisioning", 1),
        ("resource.acquired", 1),
        ("run.started", 1),
        ("run.progress", 20),
        ("run.checkpoint", 2),
        ("run.interrupted", 1),
        ("resource.released", 1),
        ("resource.released", 2),
    ],
)
def test_a_day_without_supervisor_and_workers_is_nobodys_time(tmp_path, kind, count):
    """Its workers left when it died: neither time nor money until somebody resumes the run."""
    case = make_case(tmp_path, faults=("crash@60#1",))
    die_at(case, kind, count)
    leave(case)
    case.clock.sleep(DAY_S)
    died = case.record
    assert case.go() is RunState.DONE
    record, now = case.record, case.clock.now()
    worked_s = case.clock.elapsed_s - DAY_S
    assert record.total_s(now) == pytest.approx(worked_s, abs=4.0)
    assert record.idle_s == pytest.approx(DAY_S, abs=4.0)
    assert case.events[-1].data["total_s"] == pytest.approx(worked_s, abs=4.0)
    assert died.spent_microusd < record.spent_microusd <= 1000 * worked_s + 3
    report = json.loads(case.run.report.read_text())
    assert report["time_s"]["real"] == pytest.approx(worked_s, abs=4.0)


def test_the_report_tells_where_the_time_of_every_attempt_went(tmp_path):
    """That of the attempt whose supervisor died as well: the rate is steps over their time."""
    whole = make_case(tmp_path)
    whole.go()
    undisturbed = json.loads(whole.run.report.read_text())
    (tmp_path / "dead").mkdir()
    case = make_case(tmp_path / "dead")
    die_at(case, "run.progress", 20)
    leave(case)
    assert case.go() is RunState.DONE
    report = json.loads(case.run.report.read_text())
    assert report["attempts"] == 2
    assert sum(report["times_s"].values()) == pytest.approx(report["held_s"], abs=0.1)
    assert report["samples_per_s"] == pytest.approx(undisturbed["samples_per_s"], rel=0.02)


def leave(case):
    """What the workers of a dead supervisor do, told by the system: checkpoint and go."""
    for number in range(1, case.record.attempt + 1):
        units = case.run.attempt(number).units().values()
        for path in [unit.handle for unit in units if unit.handle.exists()]:
            handle = load(Handle, path)
            case.runner.signal(handle, Signal.STOP)
            while case.runner.poll(handle).running:
                case.clock.sleep(0.5)


def test_a_day_before_anything_was_started_is_nobodys_time(tmp_path):
    case = make_case(tmp_path)
    case.clock.sleep(DAY_S)
    assert case.go() is RunState.DONE
    assert case.record.total_s(case.clock.now()) == pytest.approx(case.clock.elapsed_s - DAY_S)
    assert (case.record.interruptions, case.record.reason) == (0, None)


def test_idle_time_between_two_attempts_is_no_interruption_of_its_own(tmp_path):
    case = make_case(tmp_path, faults=("crash@60#1",))
    die_at(case, "run.interrupted")
    crashed = case.record
    case.clock.sleep(DAY_S)
    die_at(case, "run.unattended")
    assert (case.record.interruptions, case.record.reason) == (1, crashed.reason)
    assert "crash" in crashed.reason
    assert case.go() is RunState.DONE
    assert case.record.idle_s == pytest.approx(DAY_S, abs=4.0)


@pytest.mark.parametrize("kind", ["resource.released", "run.interrupted", "run.provisioning"])
def test_supervisors_that_die_one_after_the_other_count_no_day_either(tmp_path, kind):
    """The second dies while it takes the run over."""
    case = make_case(tmp_path)
    die_at(case, "run.progress", 20)
    leave(case)
    case.clock.sleep(DAY_S)
    die_at(case, kind)
    case.clock.sleep(DAY_S)
    assert case.go() is RunState.DONE
    worked_s = case.clock.elapsed_s - 2 * DAY_S
    assert case.record.total_s(case.clock.now()) == pytest.approx(worked_s, abs=4.0)


def test_time_stands_still_while_nobody_looks_after_a_run(tmp_path):
    case = make_case(tmp_path)
    die_at(case, "run.progress", 20)
    before_s = case.clock.elapsed_s
    case.clock.sleep(DAY_S)
    view = run_view(case.plan, case.record, case.clock.now(), supervisor_alive=False)
    assert view.elapsed_s == pytest.approx(before_s, abs=1.0)


def test_a_script_that_left_with_0_when_its_supervisor_died_is_not_done(tmp_path):
    case = make_case(tmp_path)
    die_at(case, "run.progress", 20)
    poll, asked = case.runner.poll, []

    def polled(handle):
        status = poll(handle)
        ended = [replace(w, exit_code=0) if w.exit_code == 75 else w for w in status.workers]
        asked.append(status)
        return replace(status, workers=tuple(ended))

    case.runner.poll = polled
    assert case.go() is RunState.DONE
    assert (case.record.attempt, case.record.step) == (2, 200)


@pytest.mark.parametrize(
    ("action", "state"), [("pause", RunState.DONE), ("cancel", RunState.CANCELLED)]
)
def test_a_supervisor_may_die_while_it_stops_a_run(tmp_path, action, state):
    case = make_case(tmp_path)
    case.clock.at(50, lambda: case.send(action))
    die_at(case, "run.stopping")
    case.clock.sleep(2.0)
    assert case.go() is state


def test_a_torn_journal_is_repaired_and_told(tmp_path):
    case = make_case(tmp_path)
    die_at(case, "run.progress", 5)
    with case.run.journal.open("ab") as file:
        file.write(b'{"schema":"planner.event/1","seq":')
    assert case.go() is RunState.DONE
    assert "journal.repaired" in case.warnings()
    assert case.record.gaps == 0
    assert_all_is_billed(case)


def test_time_that_nobody_watched_is_billed_though_warnings_come_first(tmp_path):
    """The journal is torn: the next supervisor says so before it knows what is owed."""
    case = make_case(tmp_path)
    die_at(case, "run.checkpoint", 2)
    before = case.record
    with case.run.journal.open("ab") as file:
        file.write(b'{"schema":"planner.event/1","seq":')
    case.clock.sleep(30.0)
    case.go()
    released = next(e for e in case.events if e.type == "resource.released")
    assert released.data["spent_microusd"] - before.spent_microusd > 30_000
    assert_all_is_billed(case)


def test_a_damaged_handle_does_not_stop_a_resume(tmp_path):
    case = make_case(tmp_path)
    die_at(case, "run.progress", 5)
    case.run.attempt(1).handle.write_text("{")
    assert case.go() is RunState.DONE
    assert "handle.damaged" in case.warnings()
    assert case.left_running() == []
    assert_all_is_billed(case)


def test_the_fake_clock_of_these_tests_is_one(tmp_path):
    clock = FakeClock()
    clock.sleep(5)
    assert clock.monotonic_s() == 5
    assert replace(make_case(tmp_path).plan, retries=1).retries == 1
