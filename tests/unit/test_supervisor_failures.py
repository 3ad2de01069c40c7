"""What goes wrong in a run: crashes, hangs, full disks, defects."""

from __future__ import annotations

import errno
import os

import pytest

from planner.core.errors import StoreError
from planner.core.job import Goal
from planner.core.types import RunState
from planner.store import journal
from tests.support.runs import START, make_case


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


@pytest.mark.parametrize("loss", ["NaN", "null"])  # the SDK writes null for what is not finite
def test_metrics_that_are_not_numbers_are_told_and_do_no_harm(tmp_path, loss):
    case = make_case(tmp_path)
    events = case.run.attempt(1).events(0)

    def diverge():
        with events.open("a") as file:
            values = f'{{"loss": {loss}, "lr": 0.1}}'
            file.write(f'{{"t": 1, "type": "metric", "step": 9, "values": {values}}}\n')
            file.write('{"t": 1, "type": "checkpoint", "step": 9, "duration_s": Infinity}\n')
            file.write("garbage\n")

    case.clock.at(30, diverge)
    assert case.go() is RunState.DONE
    assert sorted(case.warnings()) == ["events.garbage", "metric.not_finite"]
    assert case.record.metrics["lr"] == 0.1
