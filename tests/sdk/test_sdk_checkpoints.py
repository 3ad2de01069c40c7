"""Checkpoints written while training goes on: what is in them, what waits, what may fail."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.sdkbench import Bench, events
from torch import nn

from planner.sdk import checkpoint, keeper
from planner.sdk.courier import Courier
from planner.sdk.distributed import Workers
from planner.sdk.environment import read_environment
from planner.sdk.keeper import Keeper
from planner.sdk.state import Parts, Snapshots, read_states

pytestmark = pytest.mark.torch

PATIENCE_S = 30.0


class Gate:
    """Holds a checkpoint up right before it takes its place; then says whether it may."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.answer = True

    def __call__(self) -> bool:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)
        return self.answer


class Plain:
    """Something of the script's own, whose state is its own list."""

    def __init__(self) -> None:
        self.seen: list[Any] = [[0], {"best": 0.5}, (1, None)]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Training:
    """A script's objects and their keeper, in this process."""

    def __init__(self, bench: Bench, may_write: Callable[[], bool], **more: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4])
        self.extra = Plain()
        self.parts = Parts(
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            extra={"plain": self.extra},
            **more,
        )
        env = read_environment(bench.environment())
        assert env is not None
        self.courier = Courier(env.events)
        self.keeper = Keeper(env, self.parts, Workers(0, 1), self.courier, may_write=may_write)
        self.path = env.events

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(16, 4)).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()
        self.extra.seen[0].append(self.keeper.at.step)
        self.keeper.advance(self.keeper.at.position + 16, 16)

    def said(self, kind: str) -> list[dict[str, Any]]:
        self.courier.flush()
        return events(self.path, kind) if self.path.exists() else []


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def train(bench: Bench, gate: Gate) -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def make(may_write: Callable[[], bool] = gate, **more: Any) -> Training:
        made.append(Training(bench, may_write, **more))
        return made[-1]

    yield make
    gate.opened.set()
    for training in made:
        training.keeper.flush()
        training.courier.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every checkpoint for a slow one."""
    monkeypatch.setattr(keeper, "LARGE_BYTES", 0)
    monkeypatch.setattr(keeper, "SLOW_WRITE_S", 0.0)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_what_is_written_is_what_was_there_when_it_was_asked_for(
    bench: Bench, train: Callable[..., Training], gate: Gate, slow: None
) -> None:
    training = train()
    training.step()
    expected = Snapshots().take(training.parts)
    assert training.keeper.save("interval")
    assert training.keeper.writing
    for _ in range(5):
        training.step()
    assert not same(Snapshots().take(training.parts), expected)
    assert not training.said("checkpoint"), "not said before it is on the disk"
    gate.opened.set()
    training.keeper.flush()
    (said,) = training.said("checkpoint")
    assert same(read_states(Path(said["path"])), expected)
    assert (said["step"], said["reason"]) == (1, "interval")
    assert 0 < said["stall_s"] < said["duration_s"]


def test_a_small_checkpoint_is_written_at_once(
    train: Callable[..., Training], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SLOW_WRITE_S", 1000.0)
    gate.opened.set()
    training = train()
    for reason in ("interval", "request"):
        training.step()
        assert training.keeper.save(reason)
        assert not training.keeper.writing
        said = training.said("checkpoint")[-1]
        assert (said["step"], said["reason"]) == (training.keeper.at.step, reason)
        assert said["stall_s"] == said["duration_s"]


def test_how_long_the_last_one_took_decides(
    train: Callable[..., Training], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.opened.set()
    training = train()
    background = []
    for limit_s in (1000.0, 0.0, 0.0, 1000.0):
        monkeypatch.setattr(keeper, "SLOW_WRITE_S", limit_s)
        training.step()
        training.keeper.save("interval")
        training.keeper.flush()
        said = training.said("checkpoint")[-1]
        background.append(said["stall_s"] < said["duration_s"])
    assert background == [False, True, True, False]


@pytest.mark.parametrize("reason", ["stop", "end"])
def test_the_last_checkpoint_waits_for_the_one_under_way_and_is_on_the_disk(
    train: Callable[..., Training], gate: Gate, slow: None, reason: str
) -> None:
    training = train()
    training.step()
    training.keeper.save("interval")
    training.step()
    threading.Timer(0.1, gate.opened.set).start()
    assert training.keeper.save(reason)
    assert not training.keeper.writing
    said = training.said("checkpoint")
    assert [(s["step"], s["reason"]) for s in said] == [(1, "interval"), (2, reason)]
    assert Path(said[1]["path"]).exists()


def test_a_boundary_that_is_being_written_is_not_written_again(
    train: Callable[..., Training], gate: Gate, slow: None
) -> None:
    training = train()
    training.step()
    training.keeper.save("interval")
    threading.Timer(0.1, gate.opened.set).start()
    assert training.keeper.save("stop")
    assert [s["reason"] for s in training.said("checkpoint")] == ["interval"]


def test_no_more_than_one_is_under_way(
    bench: Bench, train: Callable[..., Training], gate: Gate, slow: None
) -> None:
    training = train()
    training.step()
    training.keeper.save("interval")
    assert gate.reached.wait(PATIENCE_S)
    training.step()
    later = threading.Thread(target=training.keeper.save, args=("request",))
    later.start()
    later.join(0.2)
    assert later.is_alive(), "it waits"
    gate.opened.set()
    later.join(PATIENCE_S)
    training.keeper.flush()
    assert [s["step"] for s in training.said("checkpoint")] == [1, 2]
    assert len(list(bench.checkpoints.iterdir())) == 2


@pytest.mark.parametrize("how", ["own saver", "not allowed"])
def test_training_waits_where_it_has_to(
    train: Callable[..., Training], gate: Gate, slow: None, how: str
) -> None:
    gate.opened.set()
    own: dict[str, Any] = {"save": lambda folder: None, "load": lambda folder: None}
    training = train(**(own if how == "own saver" else {}))
    training.keeper.in_background = how == "own saver"
    training.step()
    training.keeper.save("interval")
    assert not training.keeper.writing
    (said,) = training.said("checkpoint")
    assert said["stall_s"] == said["duration_s"]


@pytest.mark.parametrize("reason", ["request", "end"])
def test_a_worker_that_leads_no_more_writes_nothing(
    bench: Bench, train: Callable[..., Training], gate: Gate, slow: None, reason: str
) -> None:
    gate.opened.set()
    training = train()
    training.step()
    training.keeper.save("end")
    before = list(bench.checkpoints.iterdir())
    gate.answer = False
    training.step()
    training.keeper.save(reason)
    training.keeper.flush()
    (failed,) = training.said("checkpoint_failed")
    assert failed["step"] == 2
    assert "another worker leads now" in failed["error"]
    assert list(bench.checkpoints.iterdir()) == before
    gate.answer = True
    assert training.keeper.save("stop"), "the same boundary, once it may again"


def test_a_failure_in_the_background_is_told_and_leaves_those_before(
    bench: Bench,
    train: Callable[..., Training],
    gate: Gate,
    slow: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    gate.opened.set()
    training = train()
    training.step()
    training.keeper.save("interval")
    training.keeper.flush()
    before = list(bench.checkpoints.iterdir())
    training.step()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_seal", full)
        assert training.keeper.save("interval"), "it was begun"
        training.keeper.flush()
    assert "No space left" in training.said("checkpoint_failed")[0]["error"]
    assert list(bench.checkpoints.iterdir()) == before
    training.keeper.save("interval")
    training.keeper.flush()
    assert training.said("checkpoint")[-1]["step"] == 2, "what failed is not taken as saved"


def test_what_cannot_be_loaded_again_is_named_from_the_background(
    bench: Bench, train: Callable[..., Training], gate: Gate, slow: None
) -> None:
    gate.opened.set()
    training = train()
    training.extra.seen[1]["best"] = Path("here")
    training.step()
    training.keeper.save("interval")
    training.keeper.flush()
    error = training.said("checkpoint_failed")[0]["error"]
    assert "plain['seen'][1]['best'] is a pathlib" in error
    assert list(bench.checkpoints.iterdir()) == []


def test_what_cannot_be_copied_fails_as_what_cannot_be_written(
    train: Callable[..., Training], slow: None
) -> None:
    training = train()
    training.extra.seen.append(threading.Lock())
    training.step()
    assert not training.keeper.save("interval")
    assert "cannot pickle" in training.said("checkpoint_failed")[0]["error"]


def test_a_copy_keeps_what_torch_keeps_and_shares_what_the_model_shares() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    snapshots = Snapshots()
    copied = snapshots.take(Parts(model=model))["model"]
    live = model.state_dict()
    assert copied._metadata == live._metadata
    assert same(copied, dict(live))
    assert copied["0.weight"] is copied["2.weight"]
    with torch.no_grad():
        model[0].weight += 1
    assert not torch.equal(copied["0.weight"], model[0].weight)
    model[1].register_buffer("late", nn.Parameter(torch.ones(2)))
    again = snapshots.take(Parts(model=model))["model"]
    assert again["0.weight"] is copied["0.weight"], "the same memory"
    assert again["0.weight"] is again["2.weight"]
    assert same(again, dict(model.state_dict()))


SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    import torch
    from torch import nn
    import planner.sdk as planner
    from planner.sdk import checkpoint, keeper

    keeper.LARGE_BYTES = 0  # every checkpoint that may be is written in the background
    keeper.SLOW_WRITE_S = 0.0
    verify = checkpoint.verify
    RANK, WORKERS = int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))
    HELD_UP_S = float(os.environ.get("HELD_UP_S", "0"))
    BROKEN = "BROKEN" in os.environ
    ACT_AT = int(os.environ.get("ACT_AT", "-1"))

    def held_up(path):
        if path.name.startswith("."):
            if BROKEN and path.name.split("-")[2] != "step0":
                raise OSError("broken")
            print("writing", flush=True)
            time.sleep(HELD_UP_S)
        return verify(path)

    checkpoint.verify = held_up
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    if WORKERS > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(RANK)
    job = planner.attach(model=model, optimizer=optimizer, epochs=2)
    for epoch, batches in job.epochs([[i] for i in range(6)]):
        for batch in batches:
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            if job.step == ACT_AT:
                if os.environ["ACT"] == "crash":
                    raise RuntimeError("crashed")
                elif os.environ["ACT"] == "exit":
                    sys.exit(3)
                elif RANK == WORKERS - 1:
                    folder = Path(os.environ["PLANNER_CHECKPOINT_DIR"])
                    while int(os.environ["ACT"]) == 9 and not list(folder.glob(".writing-*")):
                        time.sleep(0.01)
                    os.kill(os.getpid(), int(os.environ["ACT"]))
            while job.step != ACT_AT and job._gear.keeper.writing:
                time.sleep(0.002)  # so that the next boundary asks for one, too
    if RANK == 0:
        print([p.tolist() for p in model.parameters()])
    if WORKERS > 1:  # a thread of gloo, about to end, may abort a process that tidies up
        sys.stdout.flush()
        os._exit(0)
"""
EVERY_STEP = {"PLANNER_CHECKPOINT_INTERVAL_S": 1e-6}


def weights(bench: Bench, **variables: Any) -> str:
    """What is left at the end of a run."""
    done = bench.run(bench.script(SCRIPT), **variables)
    assert [d.returncode for d in done] == [0] * len(done), done[0].stderr + done[-1].stderr
    return done[0].stdout.splitlines()[-1]


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(("act", "code"), [("crash", 1), ("exit", 3)])
def test_a_script_that_ends_waits_for_its_checkpoint(bench: Bench, act: str, code: int) -> None:
    whole = weights(bench, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    (done,) = bench.run(bench.script(SCRIPT), HELD_UP_S=0.5, ACT=act, ACT_AT=3, **EVERY_STEP)
    assert done.returncode == code, done.stderr
    assert events(bench.events_path(), "checkpoint")[-1]["step"] == 3
    assert weights(bench) == whole
    assert events(bench.events_path(), "attached")[0]["resumed"]["step"] == 3


@pytest.mark.usefixtures("forking")
def test_a_signal_waits_for_the_one_under_way_and_saves_its_own(bench: Bench) -> None:
    whole = weights(bench, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    stop = {"ACT": int(signal.SIGTERM), "ACT_AT": 3, "HELD_UP_S": 0.3}
    (done,) = bench.run(bench.script(SCRIPT), **stop, **EVERY_STEP)
    assert done.returncode == 75, done.stderr
    said = [(s["step"], s["reason"]) for s in events(bench.events_path(), "checkpoint")]
    assert said == [*((step, "interval") for step in range(4)), (4, "stop")]
    assert weights(bench) == whole


@pytest.mark.usefixtures("forking")
def test_kill_9_while_one_is_written_leaves_the_one_before(bench: Bench) -> None:
    whole = weights(bench, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    kill = {"ACT": int(signal.SIGKILL), "ACT_AT": 3, "HELD_UP_S": 1}
    (done,) = bench.run(bench.script(SCRIPT), **kill, **EVERY_STEP)
    assert done.returncode == -signal.SIGKILL
    names = sorted(p.name for p in bench.checkpoints.iterdir())
    assert [name.startswith(".writing-") for name in names] == [True, False, False]
    assert weights(bench) == whole
    assert events(bench.events_path(), "attached")[0]["resumed"]["step"] == 2
    assert not [p for p in bench.checkpoints.iterdir() if p.name.startswith(".")], "swept up"


@pytest.mark.usefixtures("forking")
def test_two_workers_save_in_the_background_and_go_on_as_if_nothing_had_been(bench: Bench) -> None:
    whole = weights(bench, workers=2, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    stop = {"ACT": int(signal.SIGTERM), "ACT_AT": 4}
    done = bench.run(bench.script(SCRIPT), workers=2, **stop, **EVERY_STEP)
    assert [d.returncode for d in done] == [75, 75], done[0].stderr + done[1].stderr
    assert events(bench.events_path(), "checkpoint")[0]["reason"] == "interval"
    assert weights(bench, workers=2) == whole


@pytest.mark.usefixtures("forking")
def test_workers_agree_when_the_leader_cannot_write(bench: Bench) -> None:
    whole = weights(bench, workers=2, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    assert weights(bench, workers=2, BROKEN=1, **EVERY_STEP) == whole
    assert events(bench.events_path(), "checkpoint_failed")
    assert [s["step"] for s in events(bench.events_path(), "checkpoint")] == [0]
    assert weights(bench, workers=2) == whole, "from there on"
