"""A supervisor that died, at any moment, and the one that comes after it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from planner.core.types import RunState
from planner.services.runs.runview import run_view
from tests.support.deadsupervisor import die_at, leave
from tests.support.runs import make_case


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
