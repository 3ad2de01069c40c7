"""Workers that planner joins come, go and die in mid-epoch, and the training stays the same."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.crewbench import EPOCHS, CrewBench
from support.nursery import Nursery
from support.sdkbench import Bench

pytestmark = pytest.mark.torch

SAMPLES = 203
ORDER_OF_SUMS = 1e-12
"""How far float64 weights may differ between runs that add up in another order."""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    while CrewBench.made:
        CrewBench.made.pop().kill_all()


def each_once(job: CrewBench) -> None:
    assert job.trained() == [Counter(range(SAMPLES))] * EPOCHS, job.output()


def weights(job: CrewBench) -> dict[str, torch.Tensor]:
    kept: dict[str, Any] = torch.load(job.weights, weights_only=True)
    return {"lr": torch.tensor(kept["lr"]), **kept["model"]}


@pytest.fixture(scope="module")
def untouched(
    stage: Path, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, torch.Tensor]]:
    """Weights of the same training with one worker that nobody disturbs; trained once each."""
    known: dict[str, dict[str, torch.Tensor]] = {}

    def train(**variables: object) -> dict[str, torch.Tensor]:
        key = str(sorted(variables.items()))
        if key not in known:
            alone = CrewBench(
                Bench(tmp_path_factory.mktemp("alone"), stage), nursery=nursery, **variables
            )
            alone.start()
            assert alone.finish() == {0: 0}, alone.output()
            known[key] = weights(alone)
        return known[key]

    return train


Untouched = Callable[..., dict[str, torch.Tensor]]


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_resizes_in_mid_epoch_change_nothing_but_the_order_of_sums(
    bench: Bench, untouched: Untouched
) -> None:
    """With workers that start as on any machine; the other tests fork theirs."""
    job = CrewBench(bench)
    job.start(1)
    job.until(lambda: job.step() > 3)
    second = job.grow()
    job.until_ready(second)
    job.want("grow", crew=[0, second])
    grown = job.until_adjusted("grow")
    assert (grown["workers"], grown["crew"], grown["lost_samples"]) == (2, [0, second], 0)
    job.want("shrink", crew=[0])
    assert job.until_adjusted("shrink")["workers"] == 1
    job.want("smaller", micro_batch=7)
    assert job.until_adjusted("smaller")["accumulation"] == 5
    assert job.finish() == {0: 0, second: 0}, job.output()
    assert [event["worker"] for event in job.events("left")] == [second]
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_a_move_is_bit_identical(bench: Bench, nursery: Nursery, untouched: Untouched) -> None:
    """The leader itself goes; its random states go on where it stopped, dropout included."""
    job = CrewBench(bench, nursery=nursery, DTYPE="float32", DROPOUT=0.2)
    job.start(1)
    job.until(lambda: job.step() > 3)
    second = job.grow()
    job.until_ready(second)
    job.want("move", crew=[second])
    moved = job.until_adjusted("move")
    assert (moved["crew"], moved["redone_samples"]) == ([second], 0)
    assert job.finish() == {0: 0, second: 0}, job.output()
    each_once(job)
    alone = untouched(DTYPE="float32", DROPOUT=0.2)
    assert apart(weights(job), alone) == 0.0


@pytest.mark.parametrize("victim", ["leader", "other"])
def test_a_killed_worker_costs_one_batch_computed_again(
    bench: Bench, nursery: Nursery, untouched: Untouched, victim: str
) -> None:
    job = CrewBench(bench, nursery=nursery)
    job.start(2)
    job.until(lambda: job.step() > 5)
    killed = 0 if victim == "leader" else 1
    job.processes[killed].kill()
    lost = job.until_adjusted()
    assert (lost["reason"], lost["lost"], lost["crew"]) == ("lost", [killed], [1 - killed])
    assert (lost["lost_samples"], lost["redone_samples"] <= 32) == (0, True)
    assert job.finish() == {killed: -9, 1 - killed: 0}, job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_one_of_four_is_killed_and_a_new_one_takes_its_place(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    job = CrewBench(bench, nursery=nursery)
    job.start(4)
    job.until(lambda: job.step() > 5)
    job.processes[2].kill()
    assert job.until_adjusted()["crew"] == [0, 1, 3]
    fifth = job.grow()
    job.until_ready(fifth)
    job.want("replace", crew=[0, 1, 3, fifth])
    assert job.until_adjusted("replace")["workers"] == 4
    codes = job.finish()
    assert codes == {0: 0, 1: 0, 2: -9, 3: 0, fifth: 0}, job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_a_newcomer_that_dies_changes_nothing(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    """While it imports, when it is ready, and right after it was let in."""
    job = CrewBench(bench, nursery=nursery)
    job.start(1)
    job.until(lambda: job.step() > 3)
    importing = job.grow()
    job.processes[importing].kill()
    ready = job.grow()
    job.until_ready(ready)
    job.processes[ready].kill()
    job.want("never", crew=[0, ready])
    at = job.step()
    job.until(lambda: job.step() > at + 10)
    assert not job.events("adjusted"), "it goes on as it was"
    third = job.grow()
    job.until_ready(third)
    job.want("third", crew=[0, third])
    job.until_adjusted("third")
    job.processes[third].kill()
    assert job.until_adjusted()["crew"] == [0]
    codes = job.finish()
    assert codes[0] == 0, job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_a_worker_that_comes_back_from_the_dead_leaves(bench: Bench, nursery: Nursery) -> None:
    """Stopped for longer than it counts as alive, the leader finds that the others went on."""
    job = CrewBench(bench, nursery=nursery, PLANNER_CREW_SILENCE_S=2)
    job.start(2)
    job.until(lambda: job.step() > 3)
    os.kill(job.processes[0].pid, signal.SIGSTOP)
    lost = job.until_adjusted()
    assert lost["crew"] == [1]
    os.kill(job.processes[0].pid, signal.SIGCONT)
    assert job.finish() == {0: 75, 1: 0}, job.output()
    assert [event["reason"] for event in job.events("stopping")] == ["expelled"]
    each_once(job)


def test_loader_processes_change_without_a_lost_sample(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    job = CrewBench(bench, nursery=nursery, LOADERS=1, PLANNER_LOADER_WORKERS=1)
    job.start(1)
    job.until(lambda: job.step() > 3)
    job.want("more", loader_workers=2)
    assert job.until_adjusted("more")["loader_workers"] == 2
    second = job.grow()
    job.until_ready(second)
    job.want("grow", crew=[0, second])
    job.until_adjusted("grow")
    job.want("none", loader_workers=0)
    assert job.until_adjusted("none")["loader_workers"] == 0
    job.want("lean", memory="low")
    assert job.until_adjusted("lean")["micro_batch"] == 16
    assert job.finish() == {0: 0, second: 0}, job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_a_worker_dies_with_batches_drawn_ahead(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    job = CrewBench(bench, nursery=nursery, LOADERS=2)
    job.start(2)
    job.until(lambda: job.step() > 5)
    job.processes[0].kill()
    assert job.until_adjusted()["crew"] == [1]
    assert job.finish() == {0: -9, 1: 0}, job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < ORDER_OF_SUMS


def test_a_stop_reaches_all_at_one_step_and_is_resumed_with_another_number(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    first = CrewBench(bench, nursery=nursery)
    first.start(2)
    first.until(lambda: first.step() > 5)
    first.processes[1].terminate()
    assert first.finish() == {0: 75, 1: 75}, first.output()
    second = CrewBench(bench, nursery=nursery)
    second.start(3)
    assert second.finish() == {0: 0, 1: 0, 2: 0}, second.output()
    begun, done = first.trained(), second.trained()
    split = begun[-1] + done[0] if len(begun) + len(done) > EPOCHS else None
    whole = [*begun[:-1], split, *done[1:]] if split is not None else [*begun, *done]
    assert whole == [Counter(range(SAMPLES))] * EPOCHS
    assert apart(weights(second), untouched()) < ORDER_OF_SUMS


def test_workers_join_where_a_step_has_hardly_a_sample_for_each(
    bench: Bench, nursery: Nursery
) -> None:
    job = CrewBench(bench, nursery=nursery, PLANNER_GLOBAL_BATCH=4, EPOCHS=6)
    job.start(2)
    job.until(lambda: job.step() > 3)
    third = job.grow()
    job.until_ready(third)
    job.want("grow", crew=[0, 1, third])
    assert job.until_adjusted("grow")["crew"] == [0, 1, third]
    assert job.finish() == {0: 0, 1: 0, third: 0}, job.output()


def test_what_cannot_be_is_refused_with_the_reason(bench: Bench, nursery: Nursery) -> None:
    job = CrewBench(bench, nursery=nursery)
    job.start(1)
    job.until(lambda: job.step() > 3)
    job.want("too small", global_batch=1, crew=[0, 1])
    job.until(lambda: bool(job.events("adjust_refused")))
    (refused,) = job.events("adjust_refused")
    assert refused["id"] == "too small"
    assert refused["reason"] == "a global batch of 1 is too small for 2 workers"
    assert job.finish() == {0: 0}
    each_once(job)


def test_a_larger_global_batch_keeps_the_schedule_by_samples(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    """Twice the batch, half the steps, the same learning rate at the end, but for its factor."""
    job = CrewBench(bench, nursery=nursery)
    job.start(1)
    job.until(lambda: job.step() > 3)
    job.want("maths", global_batch=64, lr_rule="sqrt")
    told = job.until_adjusted("maths")
    assert (told["global_batch"], told["lr_scale"]) == (64, pytest.approx(2**0.5))
    assert job.finish() == {0: 0}, job.output()
    each_once(job)
    lr = weights(job)["lr"] / untouched()["lr"]
    assert float(lr) == pytest.approx(2**0.5)


def test_random_adjustments_and_kills_train_every_sample_once(
    bench: Bench, nursery: Nursery, untouched: Untouched
) -> None:
    draw = random.Random(5)
    job = CrewBench(bench, nursery=nursery)
    job.start(2)
    job.until(lambda: job.step() > 3)
    for number in range(10):
        crew = job.crew()
        kind = draw.choice(["grow", "shrink", "kill", "micro", "loaders"])
        if kind == "grow" and len(crew) < 3:
            newcomer = job.grow()
            job.until_ready(newcomer)
            job.want(f"w{number}", crew=[*crew, newcomer])
        elif kind == "shrink" and len(crew) > 1:
            job.want(f"w{number}", crew=sorted(draw.sample(crew, len(crew) - 1)))
        elif kind == "kill" and len(crew) > 1:
            losses = len([e for e in job.events("adjusted") if e["id"] is None])
            job.processes[draw.choice(crew)].kill()
            job.until_adjusted(None, losses + 1)
            continue
        elif kind == "micro":
            job.want(f"w{number}", micro_batch=draw.choice([5, 9, 16]))
        else:
            job.want(f"w{number}", loader_workers=draw.choice([0, 1]))
        job.until_adjusted(f"w{number}")
    job.want("calm", loader_workers=0, micro_batch=16)
    codes = job.finish()
    assert all(codes[number] == 0 for number in job.crew()), job.output()
    each_once(job)
    assert apart(weights(job), untouched()) < 1e-9
