"""Scripts that accumulate by themselves are told from those that leave out a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sdkbench import Bench, events
from support.twoworkers import Pretended
from torch import nn
from torch.utils.data import DataLoader

import planner.sdk as sdk
from planner.sdk.accumulate import Accumulation
from planner.sdk.order import Micro

pytestmark = pytest.mark.torch

BATCHES = 9
WHOLE = (Micro(0, 1),)
CUT = (Micro(0, 1, last=False), Micro(1, 2, first=False))


class Script:
    """Clears, goes backward and steps; some leave out a part of that at some batches."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.scaler: Any = None

    def backward(self) -> None:
        self.model(torch.ones(1, 1)).sum().backward()

    def act(self, batch: int) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def accumulation(self) -> Accumulation:
        return Accumulation(
            model=self.model, optimizer=self.optimizer, scheduler=None, scaler=self.scaler
        )


class EverySecond(Script):
    def act(self, batch: int) -> None:
        self.backward()
        if batch % 2 == 1:
            self.optimizer.step()
            self.optimizer.zero_grad()


class ClearsBeforeEveryThird(Script):
    def act(self, batch: int) -> None:
        if batch % 3 == 0:
            self.optimizer.zero_grad()
        self.backward()
        if batch % 3 == 2:
            self.optimizer.step()


class StepsFirst(Script):
    def act(self, batch: int) -> None:
        self.backward()
        if batch % 4 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)


class LeavesOutSteps(Script):
    def act(self, batch: int) -> None:
        self.optimizer.zero_grad(set_to_none=batch % 2 == 0)
        self.backward()
        if batch not in (2, 5, 6):
            self.optimizer.step()


class LeavesOutBatches(Script):
    def act(self, batch: int) -> None:
        if batch not in (2, 5, 6):
            self.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=batch % 2 == 0)


class ClearsByHand(Script):
    def act(self, batch: int) -> None:
        self.model.weight.grad = None
        self.backward()
        if batch != 2:
            self.optimizer.step()


class Overflows(Script):
    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    def act(self, batch: int) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        value = float("inf") if batch in (0, 1, 4) else 1.0
        self.scaler.scale(self.model(torch.full((1, 1), value)).sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


GATHERS = [EverySecond, ClearsBeforeEveryThird, StepsFirst]
STEPS = [Script, LeavesOutSteps, LeavesOutBatches, ClearsByHand, Overflows]


def watched(script: Script, made: Accumulation) -> bool:
    """Whether the script was found to gather by itself, once that is settled."""
    made.install(accumulates=False, freeze_scheduler=False)
    found = []
    for batch in range(BATCHES):
        made.begin(*WHOLE)
        script.act(batch)
        made.end()
        if made.gathering.settled:
            found.append(made.gathering.found)
    made.remove()
    assert len(set(found)) == 1, "it shows as soon as it is settled"
    return found[0]


@pytest.mark.parametrize("kind", [*GATHERS, *STEPS])
def test_who_gathers_by_itself_is_found(kind: type[Script]) -> None:
    script = kind()
    assert watched(script, script.accumulation()) == (kind in GATHERS)


@pytest.mark.parametrize("kind", GATHERS)
@pytest.mark.parametrize("workers", [1, 2])
def test_several_workers_or_micro_batches_are_refused(kind: type[Script], workers: int) -> None:
    script = kind()
    made = script.accumulation()
    if workers > 1:
        made.reduction.use(Pretended(None, 0, workers, torch.device("cpu")))
    made.install(accumulates=True, freeze_scheduler=False)
    micros = CUT if workers == 1 else WHOLE
    with pytest.raises(sdk.SdkError, match="every n-th batch by itself"):
        for batch in range(BATCHES * len(micros)):
            made.begin(micros[batch % len(micros)])
            script.act(batch // len(micros) if workers == 1 else batch)
            made.end()
    made.remove()


@pytest.mark.parametrize("kind", [Script, EverySecond])
def test_changes_of_batches_and_workers_are_refused(
    here: Callable[..., None], bench: Bench, kind: type[Script]
) -> None:
    here(PLANNER_GLOBAL_BATCH=4, PLANNER_CHECKPOINT_DIR="")
    script = kind()
    job: Any = sdk.attach(epochs=1, model=script.model, optimizer=script.optimizer)
    loader = DataLoader(range(40), batch_size=4)  # type: ignore[arg-type]
    wishes = {"batch": {"micro_batch": 2}, "loader": {"loader_workers": 1}, "crew": {"crew": [1]}}
    taken = []
    for _, batches in job.epochs(loader):
        for number, _ in enumerate(batches):
            script.act(number)
            screen = job._loop._boundary._planner.screen
            if number == 0:
                assert screen({"id": "early", "micro_batch": 2}) is None, "not yet looked at"
            if number == 6:
                job._gear.crew.want = lambda *_: None
                taken = [name for name, wish in wishes.items() if screen({"id": name, **wish})]
    job._gear.courier.close()
    gathers = kind in GATHERS
    assert taken == (["loader"] if gathers else ["batch", "loader"])
    refused = events(bench.events_path(), "adjust_refused")
    assert [event["id"] for event in refused] == (["batch", "crew"] if gathers else [])
    assert all("every n-th batch by itself" in event["reason"] for event in refused)
