"""Caps and deadlines: never more spent than agreed, warned in time, decisions written down."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import Distribution
from planner.core.job import Goal
from planner.core.types import RunState
from planner.services.supervisor.rules import BudgetGuard, DeadlineGuard, HangGuard, Remaining
from planner.services.supervisor.spend import SpendMeter
from tests.support.runs import START, make_case


def left(run_s, sigma=0.05):
    return Remaining(run_s=Distribution.lognormal(run_s, sigma), steps=10)


# ---- money


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 5000)), min_size=1, max_size=30))
def test_the_meter_adds_up_to_the_micro_dollar(parts):
    """Each price for so long, looked at after each: the sum is exact, never lost to rounding."""
    meter, at_s, exact = SpendMeter(7), 0.0, 0
    for usd_per_h, duration_s in parts:
        meter.hold(usd_per_h, at_s)
        begin_s, at_s = at_s, at_s + duration_s
        meter.spent_microusd(at_s)
        exact += round(usd_per_h * 1e6) * round((at_s - begin_s) * 1e6)
    assert meter.spent_microusd(at_s) == 7 + exact // 3_600_000_000


def test_nothing_held_costs_nothing():
    meter = SpendMeter()
    meter.hold(3600.0, 10.0)
    assert meter.release(15.0) == 5.0
    assert meter.spent_microusd(1000.0) == 5_000_000
    assert (meter.usd_per_h, meter.holding) == (0.0, False)
    meter.hold(3600.0, 2000.0)
    assert meter.release(2001.0) == 1.0


def test_a_clock_that_goes_back_earns_nothing():
    meter = SpendMeter()
    meter.hold(3600.0, 10.0)
    assert meter.spent_microusd(4.0) == 0


def test_the_budget_rule_is_the_one_that_is_documented():
    """accrued + committed + p95(cost to stop cleanly) >= cap, in micro-dollars."""
    guard = BudgetGuard(cap_microusd=1_000_000)
    assert not guard.must_stop(899_999, 3600.0, 0.1)
    assert guard.must_stop(900_000, 3600.0, 0.1)
    assert guard.must_stop(800_000, 3600.0, 0.1, committed_microusd=100_000)
    assert not BudgetGuard(cap_microusd=None).must_stop(10**12, 3600.0, 10)
    assert not guard.must_stop(0, 0.0, 1e9)


@settings(max_examples=60, deadline=None)
@given(
    usd_per_h=st.floats(0.5, 500),
    cap_usd=st.floats(0.01, 2.0),
    checkpoint_s=st.floats(0.0, 25.0),
    sample_s=st.floats(0.01, 0.8),
    interval_s=st.floats(5.0, 100.0),
    faults=st.sampled_from([(), ("crash@20#1",), ("hang@15#1",), ("slow@10x20",), ("hang@15",)]),
)
def test_the_cap_is_never_passed(
    tmp_path_factory, usd_per_h, cap_usd, checkpoint_s, sample_s, interval_s, faults
):
    case = make_case(
        tmp_path_factory.mktemp("cap"),
        goal=Goal(budget_usd=cap_usd),
        usd_per_h=usd_per_h,
        checkpoint_s=checkpoint_s,
        sample_s=sample_s,
        checkpoint_interval_s=interval_s,
        faults=faults,
        samples=300,
        epochs=1,
    )
    state = case.go()
    record = case.record
    assert record.spent_microusd <= record.budget_microusd
    assert not record.holding
    assert case.left_running() == []
    assert state in (RunState.DONE, RunState.STOPPED_BY_CAP, RunState.FAILED)


def test_the_cap_stops_with_a_checkpoint_and_says_what_it_saw(tmp_path):
    case = make_case(tmp_path, goal=Goal(budget_usd=0.08))
    assert case.go() is RunState.STOPPED_BY_CAP
    record = case.record
    assert record.checkpoint.reason == "stop"
    assert 0.05 < record.spent_microusd / 1e6 <= 0.08
    assert record.warnings[0].startswith("the chance to keep the cap fell")
    assert "80% of the cap is spent" in record.warnings
    decision = list(record.decisions.values())[-1]
    assert decision.action == "stop at the cap"
    assert decision.observation["cap_usd"] == 0.08
    assert decision.observation["spent_usd"] == pytest.approx(record.spent_microusd / 1e6, rel=0.2)
    assert "guard.stop" in case.kinds()


def test_a_cap_without_room_for_a_stop_starts_nothing(tmp_path):
    case = make_case(tmp_path, goal=Goal(budget_usd=0.001))
    assert case.go() is RunState.STOPPED_BY_CAP
    assert "resource.acquired" not in case.kinds()
    assert case.record.spent_microusd == 0


def test_extending_the_cap_in_flight_lets_a_run_finish(tmp_path):
    case = make_case(tmp_path, goal=Goal(budget_usd=0.08))
    case.clock.at(40, lambda: case.send("extend", budget_usd=1.0))
    assert case.go() is RunState.DONE
    record = case.record
    assert record.budget_microusd == 1_080_000
    extended = next(d for d in record.decisions.values() if d.action.startswith("extend"))
    assert extended.mode == "manual"


def test_extending_a_capped_run_lets_it_go_on(tmp_path):
    case = make_case(tmp_path, goal=Goal(budget_usd=0.08))
    case.go()
    case.send("extend", budget_usd=1.0)
    assert case.go() is RunState.DONE
    assert case.record.steps_redone == 0


def test_going_on_with_an_empty_cap_stops_again(tmp_path):
    case = make_case(tmp_path, goal=Goal(budget_usd=0.08))
    case.go()
    spent = case.record.spent_microusd
    assert case.go() is RunState.STOPPED_BY_CAP
    assert case.record.spent_microusd == spent


def test_warnings_come_once_at_80_and_95_percent_and_anew_after_an_extension():
    guard = BudgetGuard(cap_microusd=1000)
    seen = [w.code for spent in range(0, 1000, 10) for w in guard.warnings(spent, None)]
    assert seen == ["budget.80", "budget.95"]
    guard.extend(2000)
    seen = [w.code for spent in range(1000, 2000, 10) for w in guard.warnings(spent, None)]
    assert seen == ["budget.80", "budget.95"]


def test_the_chance_to_keep_the_cap_is_the_chance_that_the_rest_is_short_enough():
    guard = BudgetGuard(cap_microusd=1_000_000)
    assert guard.p_budget(0, 3600.0, left(1.0)) == pytest.approx(0.5)
    assert guard.p_budget(0, 3600.0, left(2.0)) < 0.01
    assert guard.p_budget(0, 0.0, left(1e9)) == 1.0
    assert guard.p_budget(0, 3600.0, None) is None


# ---- time


def test_the_deadline_is_warned_of_once_and_again_after_it_recovered():
    guard = DeadlineGuard(deadline_at=START + timedelta(seconds=100), confidence=0.9)
    chances = [0.99, 0.91, 0.89, 0.85, 0.91, 0.92, 0.94, 0.88]
    told = [w.code for p in chances for w in guard.warnings(START, p)]
    assert told == ["deadline.unlikely", "deadline.likely", "deadline.unlikely"]


def test_a_missed_deadline_is_told_once_and_the_run_goes_on(tmp_path):
    deadline = START + timedelta(seconds=40)
    case = make_case(tmp_path, goal=Goal(deadline_at=deadline, deadline_s=40))
    assert case.go() is RunState.DONE
    assert case.warnings() == ["deadline.unlikely", "deadline.missed"]
    decision = next(iter(case.record.decisions.values()))
    assert decision.observation["p_deadline"] < 0.9
    assert decision.observation["remaining_p50_s"] > 40


def test_a_deadline_with_room_is_never_warned_of(tmp_path):
    goal = Goal(deadline_at=START + timedelta(seconds=300), deadline_s=300)
    case = make_case(tmp_path, goal=goal)
    case.go()
    assert case.warnings() == []
    chances = [e.data["p_deadline"] for e in case.events if e.type == "run.progress"]
    assert min(p for p in chances if p is not None) > 0.9


def test_a_run_that_slows_down_is_noticed(tmp_path):
    goal = Goal(deadline_at=START + timedelta(seconds=180), deadline_s=180)
    case = make_case(tmp_path, goal=goal, faults=("slow@60x4",))
    case.go()
    assert case.warnings()[0] == "deadline.unlikely"
    warned = next(e for e in case.events if e.type == "guard.warning")
    assert (warned.ts - START).total_seconds() < 100


def test_extending_the_deadline_is_a_decision(tmp_path):
    goal = Goal(deadline_at=START + timedelta(seconds=40), deadline_s=40)
    case = make_case(tmp_path, goal=goal)
    case.clock.at(10, lambda: case.send("extend", deadline_s=3600.0))
    case.go()
    assert case.record.deadline_at == START + timedelta(seconds=3640)
    assert "deadline.missed" not in case.warnings()


# ---- signs of life


def test_silence_is_hanging_only_after_the_timeout():
    guard = HangGuard(timeout_s=10, start_s=60)
    guard.started(0.0)
    assert not guard.hangs(69.0, 0.0)
    assert guard.hangs(71.0, 0.0)
    guard.alive(50.0, stepped=True)
    assert not guard.hangs(59.0, 0.0)
    assert guard.hangs(61.0, 0.0)
    assert not guard.hangs(61.0, 5.0)
    guard.started(100.0)
    assert not guard.hangs(165.0, 0.0)
