"""Changing a running job on a clock that jumps: workers, batches, refusals, faults."""

from __future__ import annotations

import json

import pytest

from planner.core.job import AdjustPolicy, Goal
from planner.core.types import RunState
from tests.support.adjusting import adjusted, ask, assert_money_is_right, make


def test_workers_join_and_the_rate_is_measured(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.how, change.what) == (
        "done",
        "in_flight",
        "workers 1 -> 2",
    )
    (data,) = adjusted(case)
    assert (data["workers"], data["crew"], data["lost_samples"]) == (2, [0, 1], 0)
    assert data["accumulation"] == 1
    assert data["stall_s"] < 2.0 and data["downtime_s"] > 3.0
    assert change.samples_per_s > 1.3 * change.samples_per_s_before
    decision = case.record.decisions[change.id]
    assert decision.measured.startswith(f"done at step {change.step}: stall ")
    assert decision.measured.endswith("samples/s")
    assert (case.record.attempt, case.record.step, case.record.steps_redone) == (1, 400, 0)
    assert case.record.usd_per_h == pytest.approx(7.2)
    assert_money_is_right(case)
    assert case.left_running() == []
    assert "adjust" not in json.loads(case.run.control.read_text())


def test_workers_leave_and_are_paid_no_longer(tmp_path):
    case = make(tmp_path, workers=2)
    case.clock.at(50, lambda: ask(case, "workers=1"))
    assert case.go() is RunState.DONE
    (data,) = adjusted(case)
    assert data["crew"] == [0]
    unit = next(e for e in case.events if e.type == "resource.released")
    assert (unit.data["unit"], unit.data["workers"]) == (0, [1])
    assert unit.data["usd_per_h"] == pytest.approx(1.8)
    assert (case.record.attempt, case.record.step) == (1, 400)
    assert_money_is_right(case)


def test_a_micro_batch_is_changed_in_flight(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "micro_batch=5", "loader_workers=2"))
    assert case.go() is RunState.DONE
    (data,) = adjusted(case)
    assert (data["micro_batch"], data["accumulation"], data["loader_workers"]) == (5, 2, 2)
    assert case.record.adjust.in_force.knobs.global_batch == 10


def test_an_interval_is_changed_at_once(tmp_path):
    case = make(tmp_path, checkpoint_interval_s=1000.0)
    case.clock.at(20, lambda: ask(case, "checkpoint_interval=10s"))
    assert case.go() is RunState.DONE
    (data,) = adjusted(case)
    assert data["checkpoint_interval_s"] == 10.0
    assert case.record.checkpoints > 10


def test_planner_chooses_the_interval_from_what_checkpoints_cost(tmp_path):
    case = make(tmp_path, checkpoint_interval_s=20.0, checkpoint_s=2.0)
    case.clock.at(20, lambda: ask(case, "checkpoint_interval=auto"))
    assert case.go() is RunState.DONE
    chosen = [d for d in case.record.decisions.values() if d.action.startswith("checkpoint every")]
    assert len(chosen) == 1
    assert json.loads(case.run.control.read_text())["checkpoint_interval_s"] > 100


def test_another_global_batch_changes_the_mathematics_and_says_so(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "global_batch=20", allow_maths=True))
    assert case.go() is RunState.DONE
    now = case.record.adjust.in_force
    assert (now.knobs.global_batch, now.lr_scale, now.schedule_batch) == (20, 2.0, 10)
    (data,) = adjusted(case)
    steps = data["step"] + (4000 - data["step"] * 10) / 20
    assert case.record.step == case.record.steps_total == pytest.approx(steps, abs=1)
    assert case.record.progress == 1.0


def test_the_mean_rate_of_the_report_counts_samples_whatever_a_step_held(tmp_path):
    case = make(tmp_path, faults=("crash@150#1",))
    case.clock.at(50, lambda: ask(case, "global_batch=20", allow_maths=True))
    assert case.go() is RunState.DONE
    assert 10 * case.record.steps_redone < case.record.samples_redone
    assert case.record.samples_redone <= 20 * case.record.steps_redone
    report = json.loads(case.run.report.read_text())
    stepping_s = report["times_s"]["steps"] + report["times_s"]["loading"]
    trained = 4000 + case.record.samples_redone
    assert report["samples_per_s"] == pytest.approx(trained / stepping_s)


def test_a_global_batch_that_was_changed_and_changed_back_counts_over_a_restart(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "global_batch=20", allow_maths=True))
    case.clock.at(100, lambda: ask(case, "global_batch=10", allow_maths=True))
    case.clock.at(120, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    larger, smaller = adjusted(case)
    more = smaller["step"] - larger["step"]
    assert more > 10
    case.clock.at(150, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    assert case.record.steps_total == pytest.approx(400 - more, abs=1)
    assert case.go() is RunState.DONE
    assert case.record.step == case.record.steps_total == pytest.approx(400 - more, abs=1)


# ---- one after the other, and refusals


def test_a_second_wish_waits_for_the_first(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    case.clock.at(52, lambda: ask(case, "workers=3"))
    assert case.go() is RunState.DONE
    assert [d["workers"] for d in adjusted(case)] == [2, 3]
    assert [c.what for c in case.record.adjust.changes][1].startswith("workers 2 -> 3")


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (("workers=9",), "does not offer 9 workers"),
        (("micro_batch=64",), "more than a worker's share"),
        (("global_batch=20",), "mathematics"),
        (("move=slurm:2",), "the job has no place slurm"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(tmp_path, pairs, why):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, *pairs))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "refused" and why in change.text
    assert adjusted(case) == [] and case.record.attempt == 1


def test_what_the_job_file_forbids_is_not_done(tmp_path):
    case = make(tmp_path, job_changes={"adjust": AdjustPolicy(never=("workers",))})
    case.clock.at(50, lambda: ask(case, "workers=2"))
    case.go()
    assert "never" in case.record.adjust.changes[0].text


def test_what_is_so_already_is_done(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=1", "memory=normal"))
    case.go()
    (change,) = case.record.adjust.changes
    assert (change.state, change.text) == ("done", "nothing to do: it is so already")


def test_no_more_is_paid_than_was_agreed_to(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2", max_usd_per_h=5.0))
    assert case.go() is RunState.DONE
    assert "agreed to" in case.record.adjust.changes[0].text
    assert case.record.usd_per_h == pytest.approx(3.6)


def test_the_cap_leaves_room_or_nothing_is_started(tmp_path):
    case = make(tmp_path, goal=Goal(budget_usd=0.08))
    case.clock.at(50, lambda: ask(case, "workers=4"))
    assert case.go() is RunState.STOPPED_BY_CAP
    assert "cap leaves no room" in case.record.adjust.changes[0].text
    assert case.record.spent_microusd <= 80_000


# ---- by relaunch


def test_what_cannot_be_done_in_flight_takes_a_relaunch(tmp_path):
    case = make(tmp_path, levers=("micro_batch",), retries=0)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.how) == ("done", "relaunch")
    assert change.stall_s > 4.0 and change.downtime_s > 4.0
    record = case.record
    assert (record.attempt, record.step, record.steps_redone) == (2, 400, 0)
    assert record.interruptions == 0
    assert record.usd_per_h == pytest.approx(7.2)
    assert change.samples_per_s > 1.3 * change.samples_per_s_before


@pytest.mark.parametrize(
    "fault", [{"faults": ("no_start#2",)}, {"capacity_bytes": 1_000_000_000.0}]
)
def test_a_shape_that_cannot_work_is_given_up_and_the_job_goes_on(tmp_path, fault):
    """It does not start, or runs out of memory in its first step."""
    case = make(tmp_path, levers=(), workers=2, retries=0, **fault)
    case.clock.at(50, lambda: ask(case, "workers=1", "micro_batch=10"))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "not_done" and "the job goes on as it was" in change.text
    assert (case.record.attempt, case.record.step) == (3, 400)
    assert [e.data["workers"] for e in case.events if e.type == "run.started"][-1] == 2
    assert case.record.usd_per_h == pytest.approx(3.6)


def test_a_script_without_the_sdk_is_only_started_again_and_only_when_told_so(tmp_path):
    case = make(tmp_path, job_changes={"tier": 0})
    case.clock.at(30, lambda: ask(case, "workers=2"))
    case.clock.at(50, lambda: ask(case, "workers=2", relaunch=True))
    assert case.go() is RunState.DONE
    first, second = case.record.adjust.changes
    assert first.state == "refused" and "from the beginning" in first.text
    assert (second.state, second.how) == ("done", "relaunch")


def test_what_is_in_force_outlives_a_pause(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    case.clock.at(90, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    assert case.go() is RunState.DONE
    started = [e.data["workers"] for e in case.events if e.type == "run.started"]
    assert started == [1, 2]
    assert len(adjusted(case)) == 1


def test_a_wish_that_a_pause_cut_short_is_part_of_the_next_launch(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    case.clock.at(52, lambda: case.send("pause"))
    assert case.go() is RunState.PAUSED
    case.clock.sleep(86_400)
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.workers) == ("done", 2)
    assert change.downtime_s < 60
    assert len(adjusted(case)) == 1


# ---- faults


@pytest.mark.parametrize("fault", ["join_crash", "never_ready", "no_start@1"])
def test_workers_that_do_not_come_change_nothing(tmp_path, fault):
    case = make(tmp_path, faults=(fault,))
    case.clock.at(20, lambda: ask(case, "workers=2"))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "not_done" and "the job goes on as it was" in change.text
    assert (case.record.attempt, case.record.step) == (1, 400)
    assert case.record.usd_per_h == pytest.approx(3.6)
    assert_money_is_right(case)
    assert case.left_running() == []


def test_a_lost_worker_is_replaced_while_the_others_go_on(tmp_path):
    case = make(tmp_path, workers=2, slots=4, faults=("lost@100",))
    assert case.go() is RunState.DONE
    lost, replaced = case.record.adjust.changes
    assert (lost.reason, lost.workers, replaced.reason, replaced.workers) == (
        "lost",
        1,
        "replaced",
        2,
    )
    assert lost.redone_samples == 10
    (told,) = [e.data for e in case.events if e.type == "run.worker_lost"]
    assert (told["worker"], told["attempt"]) == (1, 1)
    assert "SIGKILL" in told["reason"]
    assert (case.record.attempt, case.record.step, case.record.interruptions) == (1, 400, 0)
    assert case.record.adjust.crew == (0, 2)
    assert_money_is_right(case)


def test_replacing_comes_to_an_end(tmp_path):
    case = make(
        tmp_path,
        workers=2,
        faults=("lost@100", "join_crash"),
        checkpoint_interval_s=1e4,
        job_changes={"retries": 2},
    )
    assert case.go() is RunState.DONE
    assert "worker.not_replaced" in case.warnings()
    assert case.record.attempt == 1
    assert case.record.adjust.in_force.workers == 1


def test_a_crash_of_the_whole_job_starts_again_with_what_is_in_force(tmp_path):
    case = make(tmp_path, faults=("crash@200#1",))
    case.clock.at(50, lambda: ask(case, "workers=2"))
    assert case.go() is RunState.DONE
    started = [e.data["workers"] for e in case.events if e.type == "run.started"]
    assert started == [1, 2]
    assert case.record.interruptions == 1
