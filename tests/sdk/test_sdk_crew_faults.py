"""Workers of a crew that are lost at the worst moments: what was ordered, told and trained holds.

Workers are forked from a process that has imported torch. The script of a victim begins with a few
lines that have it kill itself at the place that is meant, so that no moment is hit by luck.
"""

from __future__ import annotations

import os
import signal
import textwrap
from collections import Counter
from collections.abc import Iterator

import pytest
from support.crewbench import SCRIPT, CrewBench
from support.nursery import Nursery
from support.sdkbench import Bench

pytestmark = pytest.mark.torch

SAMPLES, GLOBAL_BATCH, STEPS_PER_EPOCH = 203, 32, 7
EPOCHS = 8

STRIKE = """
    import os, signal, time
    from planner.sdk import boundary, changes, distributed, keeper, loop
    from planner.sdk.crew import coordinator, crew as crews, preparing
    from planner.sdk.crew.group import GroupBroken

    assert coordinator._TAKE_OVER_S
    coordinator._TAKE_OVER_S = 1000.0  # whoever takes over hears of all others without this wait

    def strike(owner, name, when=lambda *_, **__: True, *, after=False, number=signal.SIGKILL):
        real = getattr(owner, name)
        def struck(*args, **named):
            result = real(*args, **named) if after else None
            if when(*args, **named):
                os.kill(os.getpid(), number)
            return result if after else real(*args, **named)
        setattr(owner, name, struck)

    if int(os.environ["PLANNER_WORKER"]) == VICTIM:
"""
IN_RECOVERY = "lambda self, entry, mine: entry.plan.recovers"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    while CrewBench.made:
        CrewBench.made.pop().kill_all()


def job_of(
    bench: Bench,
    nursery: Nursery,
    victim: int = -1,
    strike: str = "pass",
    script: str = SCRIPT,
    **variables: object,
) -> CrewBench:
    """A job in which the worker `victim` runs the lines of `strike` first."""
    head = textwrap.dedent(STRIKE).replace("VICTIM", str(victim))
    strikes = textwrap.indent(textwrap.dedent(strike), "    ") + "\n"
    usual: dict[str, object] = {"EPOCHS": EPOCHS, "PAUSE_S": 0.03}
    return CrewBench(
        bench, head + strikes + textwrap.dedent(script), nursery, **(usual | variables)
    )


def each_once(job: CrewBench, samples: int = SAMPLES) -> None:
    assert job.trained() == [Counter(range(samples))] * EPOCHS, job.output()


def losses(job: CrewBench) -> list[list[int]]:
    told = [event for event in job.events("adjusted") if event["reason"] == "lost"]
    return [event["lost"] for event in told]


# ---- a worker dies with an order

ORDERS: dict[str, dict[str, object]] = {
    "save": {"seq": 1, "checkpoint": 1},
    "stop": {"seq": 1, "stop": True},
    "knobs": {"seq": 1, "adjust": {"id": "maths", "global_batch": 64, "lr_rule": "none"}},
}
MOMENTS = {
    "knowing": "strike(boundary.CrewBoundary, '_learn', lambda _, o: bool(o.{kind}), after=True)",
    "saving": "strike(keeper.Keeper, 'save')",
    "leaving": "strike(distributed.Workers, 'leave')",
}


@pytest.mark.parametrize(
    ("kind", "moment", "victim"),
    [
        *((kind, "knowing", victim) for kind in ORDERS for victim in (0, 1)),
        *((kind, "saving", victim) for kind in ("save", "stop") for victim in (0, 1)),
        ("stop", "leaving", 1),
    ],
)
def test_an_order_outlives_a_worker_that_dies_with_it(
    bench: Bench, nursery: Nursery, kind: str, moment: str, victim: int
) -> None:
    """All have acknowledged it; one of three dies before its step, or while it is carried out."""
    job = job_of(bench, nursery, victim, MOMENTS[moment].format(kind=kind))
    job.start(3)
    job.until(lambda: job.step() > 2)
    bench.order(**ORDERS[kind])
    if kind == "knobs":
        assert job.until_adjusted("maths")["global_batch"] == 64
    else:
        job.until(lambda: bool(job.events("checkpoint")))
    code = 75 if kind == "stop" else 0
    survivors = {worker: code for worker in range(3) if worker != victim}
    assert job.finish() == {victim: -9, **survivors}, job.output()
    saved = job.events("checkpoint")
    if kind == "stop":
        assert saved[-1]["reason"] == "stop"
        assert sum(sum(epoch.values()) for epoch in job.trained()) == saved[-1]["samples"]
        return
    assert losses(job) == [[victim]]
    assert kind != "save" or saved[0]["reason"] == "request"
    each_once(job)


def test_who_leads_next_tells_of_the_change_that_was_made(bench: Bench, nursery: Nursery) -> None:
    """The leader dies before it does, one step after the change."""
    strike = """
        changed = lambda self: self.in_force.knobs.micro_batch == 4
        strike(changes.Changes, "stepped", changed, after=True)
    """
    job = job_of(bench, nursery, 0, strike)
    job.start(3)
    job.until(lambda: job.step() > 2)
    job.want("cut", micro_batch=4)
    told = job.until_adjusted("cut")
    assert (told["micro_batch"], told["crew"], told["lost"]) == (4, [0, 1, 2], [])
    assert told["stall_s"] > 0
    assert job.finish() == {0: -9, 1: 0, 2: 0}, job.output()
    assert losses(job) == [[0]]
    each_once(job)


# ---- newcomers


@pytest.mark.parametrize("moment", ["ready", "connected"])
def test_a_newcomer_that_is_stopped_leaves_and_another_one_may_come(
    bench: Bench, nursery: Nursery, moment: str
) -> None:
    strike = "strike(preparing.Preparation, '_built', after=True, number=signal.SIGTERM)"
    job = job_of(bench, nursery, 1, strike if moment == "connected" else "pass")
    job.start(1)
    stopped = job.grow()
    job.until_ready(stopped)
    if moment == "ready":
        job.processes[stopped].terminate()
    else:
        job.want("early", crew=[0, stopped])
    job.until(lambda: job.processes[stopped].poll() is not None)
    third = job.grow()
    job.until_ready(third)
    job.want("later", crew=[0, third])
    assert job.until_adjusted("later")["crew"] == [0, third]
    assert job.finish() == {0: 0, stopped: 75, third: 0}, job.output()
    each_once(job)


def test_a_plan_withdrawn_as_it_is_ordered_holds_nobody_up(bench: Bench, nursery: Nursery) -> None:
    """The leader's training loop orders what its network's thread has just given up."""
    strike = """
        real, withdrawn = crews.Crew.give, []
        def give(self, **what):
            if what.get("plan") and not withdrawn:
                withdrawn.append(what)
                mine = self._coordinator
                mine.network.do(lambda: mine._lead._withdraw(mine._next.plan))
                while self.board.entry is not None:
                    time.sleep(0.01)
            return real(self, **what)
        crews.Crew.give = give
    """
    job = job_of(bench, nursery, 0, strike)
    job.start(1)
    second = job.grow()
    job.until_ready(second)
    job.want("grow", crew=[0, second])
    assert job.until_adjusted("grow")["crew"] == [0, second]
    assert job.finish() == {0: 0, second: 0}, job.output()
    each_once(job)


def test_a_newcomer_that_nobody_let_in_ends_with_the_job(bench: Bench, nursery: Nursery) -> None:
    job = job_of(bench, nursery)
    job.start(1)
    second = job.grow()
    job.until_ready(second)
    assert job.finish() == {0: 0, second: 0}, job.output()
    assert not job.events("adjusted")
    each_once(job)


def test_nobody_joins_before_a_step_too_short_to_be_shared_out(
    bench: Bench, nursery: Nursery
) -> None:
    """The change is due where 3 samples are left of an epoch: the step after them is the first."""
    strike = """
        real = boundary.CrewBoundary.look
        def look(self, *, always=False):
            while self._keeper.at.step == 6 and self._crew.board.ready is None:
                time.sleep(0.01)
                real(self, always=always)
            return real(self, always=always)
        boundary.CrewBoundary.look = look
    """
    job = job_of(bench, nursery, 0, strike, SAMPLES=195)
    job.start(1)
    second = job.grow()
    job.until_ready(second)
    job.want("grow", crew=[0, second])
    grown = job.until_adjusted("grow")
    assert (grown["step"], grown["epoch"]) == (7, 1)
    assert job.finish() == {0: 0, second: 0}, job.output()
    each_once(job, samples=195)


def test_a_step_that_another_worker_did_is_not_told_as_redone(
    bench: Bench, nursery: Nursery
) -> None:
    """The leader misses the end of an epoch's last step; its peer waits to average statistics."""
    strike = """
        from planner.sdk import loop
        real, missed = loop.Loop._lost_a_worker, []
        def lost_a_worker(self, step):
            reduction = self._accumulation.reduction
            if reduction.active and step.stop == SAMPLES and not missed:
                missed.append(step)
                reduction.failed = True
            return real(self, step)
        loop.Loop._lost_a_worker = lost_a_worker
    """
    job = job_of(bench, nursery, 0, strike, NORM="batch")
    job.start(2)
    told = job.until_adjusted()
    assert (told["reason"], told["lost"], told["crew"]) == ("lost", [], [0, 1])
    assert (told["step"], told["redone_samples"]) == (7, 0)
    assert job.finish() == {0: 0, 1: 0}, job.output()
    each_once(job)


def test_a_newcomer_knows_which_micro_batch_is_the_normal_one(
    bench: Bench, nursery: Nursery
) -> None:
    job = job_of(bench, nursery)
    job.start(1)
    second = job.grow()
    job.until_ready(second)
    wishes: list[dict[str, object]] = [
        {"id": "smaller", "micro_batch": 20},
        {"id": "low", "memory": "low"},
        {"id": "move", "crew": [second]},
        {"id": "normal", "memory": "normal"},
    ]
    micro_batches = []
    for seq, wish in enumerate(wishes, start=1):
        bench.order(seq=seq, adjust=wish)
        micro_batches.append(job.until_adjusted(str(wish["id"]))["micro_batch"])
    assert micro_batches == [20, 10, 10, 20]
    assert job.finish() == {0: 0, second: 0}, job.output()
    each_once(job)


def test_what_a_script_saves_for_a_newcomer_is_removed_when_it_is_loaded(
    bench: Bench, nursery: Nursery
) -> None:
    own = """
    def save(folder):
        (folder / "own.txt").write_text("own")
    def load(folder):
        print("loaded", (folder / "own.txt").read_text())
    """
    saver = textwrap.dedent(own) + textwrap.dedent(SCRIPT).replace(
        "epochs=EPOCHS\n", "epochs=EPOCHS, save=save, load=load\n"
    )
    job = job_of(bench, nursery, script=saver)
    job.start(1)
    second = job.grow()
    job.until_ready(second)
    job.want("grow", crew=[0, second])
    job.until_adjusted("grow")
    assert job.finish() == {0: 0, second: 0}, job.output()
    assert "loaded own" in job.output()
    assert list(bench.root.rglob("handover-*")) == []


# ---- one loss after the other


@pytest.mark.parametrize(
    ("first", "second", "strike"),
    [
        (1, 2, f"strike(crews.Crew, 'enter', {IN_RECOVERY})"),
        (0, 1, f"strike(crews.Crew, 'enter', {IN_RECOVERY})"),
        (2, 0, "strike(preparing.Preparation, '_build', lambda self, plan: bool(plan.lost))"),
    ],
    ids=["two others", "the leader and the next one", "the leader while it connects"],
)
def test_another_worker_dies_while_a_loss_is_recovered_from(
    bench: Bench, nursery: Nursery, first: int, second: int, strike: str
) -> None:
    job = job_of(bench, nursery, second, strike)
    job.start(4)
    job.until(lambda: job.step() > 2)
    job.processes[first].kill()
    job.until_adjusted()
    left = [worker for worker in range(4) if worker not in (first, second)]
    assert job.finish() == {first: -9, second: -9, **dict.fromkeys(left, 0)}, job.output()
    told = [worker for lost in losses(job) for worker in lost]
    assert sorted(told) == sorted([first, second])
    assert job.crew() == left
    each_once(job)


def test_a_loss_is_told_once(bench: Bench, nursery: Nursery) -> None:
    """Not again with the next one, nor by the next leader."""
    job = job_of(bench, nursery)
    job.start(4)
    job.until(lambda: job.step() > 2)
    for count, victim in enumerate((2, 0, 1), start=1):
        job.processes[victim].kill()
        job.until_adjusted(count=count)
    assert losses(job) == [[2], [0], [1]]
    assert job.finish() == {0: -9, 1: -9, 2: -9, 3: 0}, job.output()
    each_once(job)


def test_a_former_leader_that_comes_back_after_a_move_leaves_and_saves_nothing(
    bench: Bench, nursery: Nursery
) -> None:
    job = job_of(bench, nursery, EPOCHS=EPOCHS, PLANNER_CREW_SILENCE_S=1)
    job.start(2)
    job.until(lambda: job.step() > 2)
    os.kill(job.processes[0].pid, signal.SIGSTOP)
    assert job.until_adjusted()["crew"] == [1]
    third = job.grow()
    job.until_ready(third)
    job.want("move", crew=[third])
    assert job.until_adjusted("move")["crew"] == [third]
    bench.order(seq=9, checkpoint=1)
    job.until(lambda: bool(job.events("checkpoint")))
    at = job.step()
    os.kill(job.processes[0].pid, signal.SIGCONT)
    job.until(lambda: job.processes[0].poll() is not None)
    assert job.finish() == {0: 75, 1: 0, third: 0}, job.output()
    assert [event["reason"] for event in job.events("stopping")] == ["expelled"]
    assert [event["reason"] for event in job.events("checkpoint")] == ["request", "end"]
    assert all(event["step"] > at - 5 for event in job.events("checkpoint"))
    each_once(job)


# ---- before training, and after it


@pytest.fixture
def stopped(bench: Bench, nursery: Nursery) -> CrewBench:
    """A job that was stopped in mid-epoch."""
    job = job_of(bench, nursery)
    job.start(2)
    job.until(lambda: job.step() > 2)
    job.processes[0].terminate()
    assert job.finish() == {0: 75, 1: 75}, job.output()
    bench.control.unlink(missing_ok=True)
    return job


def together(first: CrewBench, second: CrewBench) -> list[Counter[int]]:
    """Samples by epoch, that of the stop in one."""
    begun, done = first.trained(), second.trained()
    if len(begun) + len(done) > EPOCHS:
        done[0] += begun.pop()
    return [*begun, *done]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("place", ["Keeper._resume", "Keeper.begin", "Loop._run_epochs"])
def test_a_worker_is_lost_before_the_first_step_of_a_resume(
    bench: Bench, nursery: Nursery, stopped: CrewBench, place: str, victim: int
) -> None:
    owner, name = place.split(".")
    # Before all have met, a lost leader is a job that did not begin: the others are given time to.
    when = "lambda *_, **__: time.sleep(0.3) is None"
    job = job_of(bench, nursery, victim, f"strike({owner.lower()}.{owner}, '{name}', {when})")
    job.start(3)
    survivors = {worker: 0 for worker in range(3) if worker != victim}
    assert job.finish() == {victim: -9, **survivors}, job.output()
    assert losses(job) == [[victim]]
    assert together(stopped, job) == [Counter(range(SAMPLES))] * EPOCHS


def test_first_workers_whose_leader_is_lost_before_they_met_end_with_an_error(
    bench: Bench, nursery: Nursery
) -> None:
    job = job_of(bench, nursery, 0, "strike(preparing.Preparation, '_build')")
    job.start(3)
    assert job.finish() == {0: -9, 1: 1, 2: 1}, job.output()
    assert job.output().count("SdkError: worker 0 was lost before the workers had met") == 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_could_not_load_is_given_what_the_others_have(
    bench: Bench, nursery: Nursery, stopped: CrewBench, victim: int
) -> None:
    """Its connection breaks at the end of a collective that the other one has behind it."""
    strike = """
        real, broken = distributed.Workers.from_leader, []
        def from_leader(self, text):
            name = real(self, text)
            if not broken:
                broken.append(name)
                raise GroupBroken("cut")
            return name
        distributed.Workers.from_leader = from_leader
    """
    job = job_of(bench, nursery, victim, strike)
    job.start(2)
    assert job.finish() == {0: 0, 1: 0}, job.output()
    assert together(stopped, job) == [Counter(range(SAMPLES))] * EPOCHS


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_is_lost_at_the_end_of_a_probe(
    bench: Bench, nursery: Nursery, victim: int
) -> None:
    job = job_of(bench, nursery, victim, "strike(loop.Loop, '_end_probe')", PLANNER_PROBE_STEPS=5)
    job.start(2)
    assert job.finish() == {victim: -9, 1 - victim: 0}, job.output()
    assert [event["steps"] for event in job.events("probe_finished")] == [5]
