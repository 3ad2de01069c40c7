"""Changing a running job on a clock that jumps: workers, batches, refusals, faults, crashes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from planner.core.adjust import Adjustment, Wish, parse_wish, planned
from planner.core.types import AdjustPolicy, Goal, RunState
from planner.services.supervisor import launcher
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.crew import TOO_LATE, Joiners
from planner.services.supervisor.made import made_of, said_in_force, unmet
from planner.store.codec import to_json
from planner.store.files import load
from planner.store.layout import AttemptDir
from runners.base import Handle, Status, WorkerState, WorkerStatus
from tests.support.deadsupervisor import Killed, die_at, leave
from tests.support.runs import make_case

LAW = {"samples": 2000, "epochs": 2, "sample_s": 0.05, "base_s": 0.05, "sync_s": 0.02}


def make(tmp_path, **changes):
    """400 steps of about half a second on up to four workers, one at first."""
    settings = {"workers": 1, "slots": 4, "planned_run_s": 240.0, **LAW, **changes}
    return make_case(tmp_path, **settings)


def ask(case, *pairs, max_usd_per_h=100.0, relaunch=False, **more):
    wish = parse_wish(pairs, relaunch=relaunch, **more)
    fields = {name: getattr(wish, name) for name in Wish.__dataclass_fields__}
    wish = Wish(**{**fields, "max_usd_per_h": max_usd_per_h})
    case.send("adjust", wish=to_json(wish), what=" ".join(pairs), expected="-")


def adjusted(case):
    return [e.data for e in case.events if e.type == "run.adjusted"]


def assert_money_is_right(case):
    """Spent is the integral of the price in force, over all changes of it."""
    spent, price, since = 0.0, 0.0, None
    for event in case.events:
        if event.type not in ("resource.acquired", "resource.released"):
            continue
        if since is not None:
            spent += price * (event.ts - since).total_seconds() / 3600
        price, since = event.data.get("usd_per_h", 0.0), event.ts
    assert case.record.spent_microusd == pytest.approx(spent * 1e6, rel=1e-3, abs=5)


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


# ---- a supervisor that dies


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


# ---- a job that says what is not so, or says it again


def say(case, **event):
    """Put an event among those that worker 0 says."""
    line = {"t": case.clock.now().timestamp(), **event}
    with case.run.attempt(1).events(0).open("a") as file:
        file.write(json.dumps(line) + "\n")


def decision(case):
    """The change that is being made."""
    return case.record.adjust.changes[0].id


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


# ---- faults in the middle of a change, and moves


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
