"""Faults in the middle of a change, and moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.core.types import RunState
from tests.support.adjusting import adjusted, ask, assert_money_is_right, make
from tests.support.deadsupervisor import die_at, leave


@pytest.mark.parametrize("at_step", [80, 90, 98])
def test_a_worker_lost_in_the_middle_of_a_change_is_replaced_and_the_change_made(tmp_path, at_step):
    case = make(tmp_path, workers=2, faults=(f"lost@{at_step}",))
    case.clock.at(30, lambda: ask(case, "workers=3"))
    assert case.go() is RunState.DONE
    reasons = [c.reason for c in case.record.adjust.changes]
    assert sorted(reasons) == ["asked", "lost", "replaced"]
    (change,) = [c for c in case.record.adjust.changes if c.reason == "asked"]
    assert (change.state, case.record.adjust.in_force.workers) == ("done", 3)
    assert (case.record.attempt, case.record.step) == (1, 400)
    assert len(case.record.adjust.crew) == 3
    assert [c.id for c in case.record.adjust.changes if c.reason != "asked"] == [None, None]
    assert_money_is_right(case)
    assert case.left_running() == []


def two_places(case):
    """The run's one place, and another one of the same kind: `fake:gpu`."""
    (place,) = case.plan.job.places
    there = replace(place, pool="gpu", settings={**place.settings, "gpu": "A100"})
    job = replace(case.plan.job, places=(place, there))
    case.plan = replace(case.plan, job=job)
    return case


@pytest.mark.parametrize("relaunch", [False, True])
def test_a_move_takes_all_workers_along(tmp_path, relaunch):
    case = two_places(make(tmp_path))
    case.clock.at(50, lambda: ask(case, "move=fake:gpu:2", relaunch=relaunch))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.how) == ("done", "relaunch" if relaunch else "in_flight")
    now = case.record.adjust.in_force
    assert (now.resources.pool, now.workers) == ("gpu", 2)
    assert now.crew == ((0, 1) if relaunch else (1, 2))
    assert (case.record.attempt, case.record.step) == (2 if relaunch else 1, 400)
    assert case.record.steps_redone == 0
    assert_money_is_right(case)
    assert case.left_running() == []


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("decision.applied", 1),
        ("resource.acquired", 2),
        ("resource.released", 1),
        ("run.adjusted", 1),
    ],
)
def test_a_supervisor_may_die_anywhere_in_a_move_which_is_made_all_the_same(tmp_path, kind, count):
    case = two_places(make(tmp_path))
    case.clock.at(50, lambda: ask(case, "move=fake:gpu:1"))
    die_at(case, kind, count)
    leave(case)
    case.clock.sleep(3600)
    assert case.go() is RunState.DONE
    record = case.record
    (change,) = record.adjust.changes
    assert (change.state, change.lost_samples) == ("done", 0)
    assert record.adjust.in_force.resources.pool == "gpu"
    assert (record.step, record.steps_redone) == (400, 0)
    assert len(adjusted(case)) == 1
    assert len(record.decisions) == 1
    assert case.left_running() == []


def test_a_job_that_has_moved_grows_where_it_is_now(tmp_path):
    case = two_places(make(tmp_path))
    case.clock.at(50, lambda: ask(case, "move=fake:gpu:1"))
    case.clock.at(70, lambda: ask(case, "workers=3"))
    assert case.go() is RunState.DONE
    assert [c.state for c in case.record.adjust.changes] == ["done", "done"]
    now = case.record.adjust.in_force
    assert (now.resources.pool, now.crew) == ("gpu", (1, 2, 3))
    assert_money_is_right(case)


def test_both_places_are_paid_while_one_takes_over_or_nothing_is_moved(tmp_path):
    case = two_places(make(tmp_path))
    case.clock.at(50, lambda: ask(case, "move=fake:gpu:1", max_usd_per_h=5.0))
    assert case.go() is RunState.DONE
    assert "agreed to" in case.record.adjust.changes[0].text
