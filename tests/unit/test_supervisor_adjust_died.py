"""A supervisor may die anywhere in a change, which is made once all the same."""

from __future__ import annotations

import pytest

from planner.core.types import RunState
from planner.services.supervisor import launcher
from planner.store.files import load
from runners.base import Handle
from tests.support.adjusting import adjusted, ask, make
from tests.support.deadsupervisor import Killed, die_at, leave


@pytest.mark.parametrize("levers", [None, ("micro_batch",)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("command.received", 1),
        ("decision.applied", 1),
        ("resource.acquired", 2),
        ("run.adjusted", 1),
        ("decision.measured", 1),
    ],
)
def test_a_supervisor_may_die_anywhere_in_a_change(tmp_path, kind, count, left, levers):
    case = make(tmp_path, levers=levers)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    die_at(case, kind, count)
    if left:
        leave(case)
        case.clock.sleep(86_400)
    else:
        case.clock.sleep(2.0)
    assert case.go() is RunState.DONE
    record = case.record
    (change,) = record.adjust.changes
    assert (change.state, change.workers) == ("done", 2)
    assert len(adjusted(case)) == 1
    measured = [e for e in case.events if e.type == "decision.measured"]
    assert len([e for e in measured if e.data["id"] == change.id]) == 1
    assert (record.step, record.gaps, record.steps_redone) == (400, 0, 0)
    assert record.adjust.in_force.workers == 2
    assert case.left_running() == []
    assert change.downtime_s < 120


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("resource.released", 1),
        ("run.interrupted", 1),
        ("run.provisioning", 2),
        ("run.started", 2),
        ("run.resumed", 1),
    ],
)
def test_a_supervisor_may_die_anywhere_in_a_relaunch(tmp_path, kind, count):
    case = make(tmp_path, levers=())
    case.clock.at(50, lambda: ask(case, "workers=2", "checkpoint_interval=15s"))
    die_at(case, kind, count)
    case.clock.sleep(2.0)
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.how, change.workers) == ("done", "relaunch", 2)
    assert len(adjusted(case)) == 1
    assert (case.record.step, case.record.steps_redone) == (400, 0)
    assert case.record.adjust.in_force.knobs.checkpoint_interval_s == 15.0
    assert case.left_running() == []


@pytest.mark.parametrize(
    ("kind", "count"),
    [("run.worker_lost", 1), ("run.adjusted", 1), ("decision.applied", 1), ("run.adjusted", 2)],
)
def test_a_supervisor_may_die_while_it_replaces_a_worker(tmp_path, kind, count):
    case = make(tmp_path, workers=2, faults=("lost@100#1",))
    die_at(case, kind, count)
    case.clock.sleep(2.0)
    assert case.go() is RunState.DONE
    started = [e.data["workers"] for e in case.events if e.type == "run.started"]
    assert started == [2, 2]
    assert (case.record.step, case.record.gaps) == (400, 0)
    assert case.left_running() == []


def test_a_change_that_nobody_heard_of_is_in_force(tmp_path):
    """The supervisor dies once the workers have joined; the job makes the change all the same."""
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    loop = case.loop()
    want = loop._control.want

    def die(adjust):
        want(adjust)
        case.runner.poll(load(Handle, case.run.attempt(1).handle))
        raise Killed

    loop._control.want = die
    loop._abort = lambda error: None
    with pytest.raises(Killed):
        loop.run()
    loop.book.journal.close()
    case.clock.sleep(10.0)
    assert case.go() is RunState.DONE
    (data,) = adjusted(case)
    assert (data["how"], data["workers"]) == ("in_flight", 2)
    started = [e.data["workers"] for e in case.events if e.type == "run.started"]
    assert started == [1, 2]


def test_a_supervisor_may_die_before_it_knows_what_it_started(tmp_path, monkeypatch):
    """The joining worker runs, and its handle is not written: it is found by its mark."""
    case = make(tmp_path)
    case.clock.at(50, lambda: ask(case, "workers=2"))
    real, saved = launcher.save, []

    def dying(path, handle):
        saved.append(path)
        if len(saved) == 2:
            raise Killed
        real(path, handle)

    monkeypatch.setattr(launcher, "save", dying)
    loop = case.loop()
    loop._abort = lambda error: None
    with pytest.raises(Killed):
        loop.run()
    loop.book.journal.close()
    assert len(case.left_running()) == 2
    assert case.go() is RunState.DONE
    (change,) = case.record.adjust.changes
    assert (change.state, change.workers, case.record.step) == ("done", 2, 400)
    assert case.left_running() == []
