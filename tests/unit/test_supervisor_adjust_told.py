"""A job that says of a change what is not so, says it again, or does not listen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from planner.core.adjust import Adjustment, planned
from planner.core.types import RunState
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.crew import TOO_LATE, Joiners
from planner.services.supervisor.made import made_of, said_in_force, unmet
from planner.store.layout import AttemptDir
from runners.base import Status, WorkerState, WorkerStatus
from tests.support.adjusting import adjusted, ask, assert_money_is_right, decision, make, say
from tests.support.deadsupervisor import die_at, leave
from tests.support.runs import SETTINGS


def test_what_is_not_wanted_does_not_count_as_done(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    early = {"type": "adjusted", "reason": "asked", "crew": [0], "stall_s": 77.0}
    case.clock.at(51.5, lambda: say(case, id=decision(case), **early))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.workers) == ("done", 2) and change.stall_s < 77.0
    assert [(d["id"], d["crew"]) for d in adjusted(case)] == [(None, [0]), (change.id, [0, 1])]
    assert case.record.adjust.in_force.workers == 2
    assert (case.record.attempt, case.record.step) == (1, 400)
    assert_money_is_right(case)


def test_a_change_made_in_two_steps_unseen_is_told_as_a_whole(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "micro_batch=5", "memory=low"))
    die_at(case, "decision.applied", 1)
    told = {"type": "adjusted", "id": decision(case), "reason": "asked", "crew": [0]}
    say(case, **told, stall_s=None, micro_batch=5, memory="normal")
    say(case, **told, stall_s=0.5, micro_batch=5, memory="low")
    leave(case)
    case.clock.sleep(86_400)
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.stall_s) == ("done", 0.5)
    assert case.record.adjust.in_force.memory == "low"


def test_a_job_that_does_not_listen_is_given_up_however_often_it_evaluates(tmp_path, monkeypatch):
    monkeypatch.setattr(ControlFile, "want", lambda *_: None)
    settings = replace(SETTINGS, adjust_s=30.0)
    case = make(tmp_path, settings=settings, samples=200, epochs=20, tail_s=5.0)
    case.clock.at(50, lambda: ask(case, "micro_batch=5"))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "not_done"
    given_up = next(e for e in case.events if e.type == "decision.measured")
    waited_s = (given_up.ts - change.asked_at).total_seconds()
    assert 30.0 <= waited_s <= 60.0  # three of its epochs, a third of which is evaluation


def test_what_never_comes_to_be_is_not_done(tmp_path):
    """It says again and again that it works as before."""
    case = make(tmp_path, faults=("never_ready",))
    case.clock.at(50, lambda: ask(case, "workers=2"))
    told = {"type": "adjusted", "reason": "asked", "crew": [0]}
    for at_s in (52, 60):
        case.clock.at(at_s, lambda: say(case, id=decision(case), **told))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "not_done"
    assert (case.record.adjust.in_force.workers, case.record.step) == (1, 400)
    assert case.left_running() == []


@pytest.mark.parametrize(
    ("code", "says"), [(0, "the others went on without worker 1"), (1, "worker 1 ended with")]
)
def test_why_workers_that_ended_cannot_join(tmp_path, code, says):
    ended = WorkerStatus(rank=1, state=WorkerState.EXITED, exit_code=code)
    joiners = Joiners(SimpleNamespace(workers=range(1, 2)), until_s=100.0)
    attempt = Attempt(AttemptDir(tmp_path), [], datetime.now(UTC))
    assert says in joiners.problem(attempt, Status(workers=(ended,)), 0.0)


def test_workers_that_come_when_all_is_trained_are_told_as_too_late(tmp_path):
    case = make(tmp_path)
    loop = case.loop()
    change = Adjustment(id=None, command="c1", what="workers 1 -> 2", state="waiting")
    loop._wishes.give_up([change], TOO_LATE)
    (decision,) = loop.book.record.decisions.values()
    assert decision.measured == f"not done: {TOO_LATE}"


def test_a_change_that_is_told_twice_was_made_once(tmp_path):
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    again = {"type": "adjusted", "reason": "asked", "crew": [0, 1], "micro_batch": 4}
    case.clock.at(100, lambda: say(case, id=decision(case), step=1, stall_s=77.0, **again))
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert change.state == "done" and change.step > 1 and change.stall_s < 77.0
    first, second = adjusted(case)
    assert (first["id"], second["id"], second["stall_s"]) == (change.id, None, 77.0)
    now = case.record.adjust.in_force
    assert (now.workers, now.crew, now.knobs.micro_batch) == (2, (0, 1), 4)
    assert case.record.decisions[change.id].measured.startswith(f"done at step {change.step}")
    assert (case.record.attempt, case.record.step) == (1, 400)
    assert case.left_running() == []


def test_the_first_step_under_a_change_counts_from_when_it_was_done(tmp_path):
    """Not from when it was told of, which is some steps later."""
    case = make(tmp_path)
    book, asked_at = case.loop().book, case.clock.now()
    case.clock.sleep(9.0)
    change = Adjustment(id="d1", command="c1", what="-", state="going_on", asked_at=asked_at)

    def took_s(**told):
        event = {"t": asked_at.timestamp() + 7.0, **told}
        crew = SimpleNamespace(workers=(0,))
        return made_of(event, planned(case.plan), crew, book, change).downtime_s

    assert took_s(first_step_t=asked_at.timestamp() + 4.0) == pytest.approx(4.0)
    assert took_s() == took_s(first_step_t=None) == pytest.approx(7.0)
    assert took_s(first_step_t=asked_at.timestamp() + 99.0) == pytest.approx(9.0), "not to come"


@pytest.mark.parametrize(
    ("wanted", "told", "missing"),
    [
        ({}, {}, []),
        ({"crew": [0, 2]}, {}, []),
        ({"crew": [0, 2]}, {"crew": [2, 0]}, []),
        ({"crew": [0, 2]}, {"crew": [0, 1]}, ["crew"]),
        ({"crew": [0, 2]}, {"crew": [0]}, ["crew"]),
        ({"crew": [0, 2]}, {"crew": [0], "lost": [2]}, []),
        ({"micro_batch": 4}, {"crew": [0], "micro_batch": 4}, []),
        ({"micro_batch": 4}, {"crew": [0], "micro_batch": 10}, ["micro_batch"]),
        ({"micro_batch": 99}, {"crew": [0, 1], "micro_batch": 5}, []),
        ({"loader_workers": 0}, {"loader_workers": 1}, ["loader_workers"]),
        ({"memory": "low"}, {"memory": "normal"}, ["memory"]),
        ({"memory": "low", "micro_batch": 2}, {"memory": "low", "micro_batch": 2}, []),
        ({"global_batch": 20}, {"global_batch": 10}, ["global_batch"]),
    ],
)
def test_what_is_told_is_compared_with_what_is_wanted(tmp_path, wanted, told, missing):
    in_force = said_in_force(told, planned(make(tmp_path).plan))
    assert unmet({"id": "d1", **wanted}, in_force, told.get("lost", ())) == missing
