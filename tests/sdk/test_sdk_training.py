"""Training with torch in this process: the same weights, whatever the micro-batch or stops."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.sdkbench import Bench, events
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import planner.sdk as sdk

pytestmark = pytest.mark.torch

SAMPLES, GLOBAL_BATCH, EPOCHS = 203, 64, 3
STEPS_PER_EPOCH = 4
EXACT = 1e-12  # float64 sums in another order


class Numbers(Dataset):
    """Sample i is its own number, some features and a target; noise from all three sources."""

    def __init__(self, samples: int = SAMPLES, noise: float = 0.0) -> None:
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 4, generator=draw, dtype=torch.float64)
        self.y = self.x.sum(1, keepdim=True).sin()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        drawn = random.random() + np.random.random() + torch.rand(1).item() if self.noise else 0.0
        return i, self.x[i] + self.noise * drawn, self.y[i]


class Script:
    """What a user's script builds, and the loop it runs."""

    def __init__(self, *, noise: float = 0.0, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
        ).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 0.01, total_steps=EPOCHS * STEPS_PER_EPOCH
        )
        self.loader: Any = DataLoader(Numbers(noise=noise), batch_size=16, shuffle=True)
        self.seen: list[list[int]] = [[] for _ in range(EPOCHS)]
        self.sizes: list[int] = []
        self.job: sdk.Job | None = None
        self.each: Callable[[Script], None] = lambda script: None

    def attach(self, **more: Any) -> sdk.Job:
        self.job = sdk.attach(
            epochs=EPOCHS,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            **more,
        )
        return self.job

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(x), y)

    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(x, y).backward()
        self.optimizer.step()
        self.scheduler.step()

    def run(self, **more: Any) -> Script:
        job = self.attach(**more)
        try:
            for epoch, batches in job.epochs(self.loader):
                for i, x, y in batches:
                    self.seen[epoch] += i.tolist()
                    self.sizes.append(len(i))
                    self.act(x, y)
                    self.each(self)
        finally:
            job._gear.courier.close()  # type: ignore[attr-defined]
        return self

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


class ZeroAfterStep(Script):
    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.loss(x, y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()


class ZeroByModel(Script):
    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.model.zero_grad()
        self.loss(x, y).backward()
        self.optimizer.step()
        self.scheduler.step()


class Clipping(Script):
    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        assert self.job is not None
        self.optimizer.zero_grad()
        self.loss(x, y).backward()
        if self.job.gradients_ready():
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.scheduler.step()


class ClippingUnaware(Script):
    """Clips as any script does, that knows nothing of micro-batches."""

    def clip(self, given: Any, most: float) -> Any:
        return clip_grad_norm_(given, most)

    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(x, y).backward()
        self.norms.append(self.clip(self.model.parameters(), 0.1))
        self.optimizer.step()
        self.scheduler.step()

    @cached_property
    def norms(self) -> list[Any]:
        return []


class ClippingByModule(ClippingUnaware):
    def clip(self, given: Any, most: float) -> Any:
        return nn.utils.clip_grad_norm_(parameters=given, max_norm=most)


class ClippingByAnotherName(ClippingUnaware):
    def clip(self, given: Any, most: float) -> Any:
        return vars(sys.modules["__main__"])["clip_all"](given, most)


class ClippingInTwo(ClippingUnaware):
    def clip(self, given: Any, most: float) -> Any:
        given = list(given)
        norm = nn.utils.get_total_norm([p.grad for p in given])
        nn.utils.clip_grads_with_norm_(given, most, norm)
        return norm


UNAWARE = [ClippingUnaware, ClippingByModule, ClippingByAnotherName, ClippingInTwo]


@pytest.mark.parametrize("micro_batch", [64, 13])
@pytest.mark.parametrize("kind", UNAWARE)
def test_clipping_acts_on_whole_steps(
    here: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ClippingUnaware],
    micro_batch: int,
) -> None:
    real = nn.utils.clip_grad_norm_
    monkeypatch.setattr(sys.modules["__main__"], "clip_all", real, raising=False)
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=micro_batch)
    script = kind().run()
    assert (script.weights - by_hand(script.seen, clip=0.1)).abs().max() < EXACT
    assert sum(norm > 0.1 for norm in script.norms) >= EPOCHS, "there was something to clip"
    for module in (nn.utils, nn.utils.clip_grad, sys.modules[__name__]):
        assert vars(module)["clip_grad_norm_"] is real, "given back after the loop"
    assert vars(sys.modules["__main__"])["clip_all"] is real


class ClippingValues(ClippingUnaware):
    def clip(self, given: Any, most: float) -> Any:
        nn.utils.clip_grad_value_(given, 0.01)


def test_clipping_by_value_acts_on_whole_steps(here: Callable[..., None]) -> None:
    weights = []
    for micro_batch in (64, 13):
        here(
            PLANNER_GLOBAL_BATCH=GLOBAL_BATCH,
            PLANNER_MICRO_BATCH=micro_batch,
            PLANNER_CHECKPOINT_DIR="",
        )
        script = ClippingValues().run()
        weights.append(script.weights)
    assert (weights[0] - weights[1]).abs().max() < EXACT
    assert (weights[0] - by_hand(script.seen)).abs().max() > 1e-4, "there was something to clip"


def test_clipping_what_is_not_gathered_is_let_through(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    other = nn.Parameter(torch.zeros(3))

    def each(_script: Script) -> None:
        other.grad = torch.ones(3)
        assert nn.utils.clip_grad_norm_(other, 0.5) > 1
        assert other.grad.norm() < 0.51

    script = Script()
    script.each = each
    script.run()
    assert (script.weights - by_hand(script.seen)).abs().max() < EXACT


def by_hand(order: list[list[int]], clip: float | None = None) -> torch.Tensor:
    """The weights after a plain loop over whole global batches in this order."""
    script = Script()
    data = Numbers()
    for epoch in order:
        for start in range(0, SAMPLES, GLOBAL_BATCH):
            chosen = epoch[start : start + GLOBAL_BATCH]
            script.optimizer.zero_grad()
            script.loss(data.x[chosen], data.y[chosen]).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(script.model.parameters(), clip)
            script.optimizer.step()
            script.scheduler.step()
    return script.weights


ONCE_EACH = [list(range(SAMPLES))] * EPOCHS


@pytest.mark.parametrize("micro_batch", [64, 32, 16, 13])
@pytest.mark.parametrize("kind", [Script, ZeroAfterStep, ZeroByModel, Clipping])
def test_micro_batches_train_as_the_whole_batch_does(
    here: Callable[..., None], kind: type[Script], micro_batch: int
) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=micro_batch)
    script = kind().run()
    assert [sorted(epoch) for epoch in script.seen] == ONCE_EACH
    assert max(script.sizes) <= micro_batch
    assert script.scheduler.last_epoch == EPOCHS * STEPS_PER_EPOCH
    expected = by_hand(script.seen, clip=0.1 if kind is Clipping else None)
    assert (script.weights - expected).abs().max() < EXACT


def test_order_depends_on_seed_and_epoch_only(here: Callable[..., None]) -> None:
    orders = []
    for seed, micro_batch in ((0, 64), (0, 16), (1, 64)):
        here(
            PLANNER_GLOBAL_BATCH=GLOBAL_BATCH,
            PLANNER_MICRO_BATCH=micro_batch,
            PLANNER_SEED=seed,
            PLANNER_CHECKPOINT_DIR="",
        )
        orders.append(Script().run().seen)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != orders[0][1], "each epoch its own"


def test_a_loader_that_does_not_shuffle_keeps_its_order(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    script = Script()
    script.loader = DataLoader(Numbers(), batch_size=16)
    assert script.run().seen == ONCE_EACH


def stop_at(step: int) -> Callable[[Script], None]:
    def each(script: Script) -> None:
        if script.job is not None and script.job.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return each


@pytest.mark.parametrize("micro_batch", [64, 16])
@pytest.mark.parametrize("stop_after", [0, 1, 3, 6])
def test_stopped_and_resumed_is_bit_identical(
    here: Callable[..., None], bench: Bench, stop_after: int, micro_batch: int
) -> None:
    shape = {"PLANNER_GLOBAL_BATCH": GLOBAL_BATCH, "PLANNER_MICRO_BATCH": micro_batch}
    here(**shape, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    whole = Script(noise=0.1, dropout=0.3).run()
    here(**shape)
    first = Script(noise=0.1, dropout=0.3)
    first.each = stop_at(stop_after)
    with pytest.raises(SystemExit) as left:
        first.run()
    assert left.value.code == 75
    assert events(bench.events_path(), "stopping")[0]["step"] == stop_after + 1
    here(**shape)
    torch.manual_seed(99)
    second = Script(noise=0.1, dropout=0.3)
    torch.manual_seed(99)  # whatever the script drew before must not matter
    second.run()
    assert [a + b for a, b in zip(first.seen, second.seen, strict=True)] == whole.seen
    assert torch.equal(second.weights, whole.weights)
    assert second.scheduler.state_dict() == whole.scheduler.state_dict()


def test_a_change_of_micro_batch_at_a_resume_trains_the_same(
    here: Callable[..., None], bench: Bench
) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=64)
    first = Script()
    first.each = stop_at(5)
    with pytest.raises(SystemExit):
        first.run()
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    second = Script().run()
    order = [a + b for a, b in zip(first.seen, second.seen, strict=True)]
    assert [sorted(epoch) for epoch in order] == ONCE_EACH
    assert (second.weights - by_hand(order)).abs().max() < EXACT


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        data = Numbers(noise=0.1)
        return (data[i] for i in torch.randperm(SAMPLES).tolist())


def weighted() -> DataLoader:
    data = Numbers(noise=0.1)
    return DataLoader(
        data, batch_size=64, sampler=WeightedRandomSampler([1.0] * SAMPLES, num_samples=SAMPLES)
    )


@pytest.mark.parametrize("make", [weighted, lambda: DataLoader(Stream(), batch_size=64)])
def test_a_loader_with_its_own_order_is_used_as_it_is_and_resumes_too(
    here: Callable[..., None], bench: Bench, make: Callable[[], DataLoader]
) -> None:
    runs = []
    for stop_after in (None, 6):
        here(PLANNER_GLOBAL_BATCH=64, PLANNER_CHECKPOINT_DIR=bench.root / f"c-{stop_after}")
        script = Script(dropout=0.3)
        script.loader = make()
        if stop_after is not None:
            script.each = stop_at(stop_after)
            with pytest.raises(SystemExit):
                script.run()
            here(PLANNER_GLOBAL_BATCH=64, PLANNER_CHECKPOINT_DIR=bench.root / f"c-{stop_after}")
            before, script = script.seen, Script(dropout=0.3)
            script.loader = make()
            script.run()
            script.seen = [a + b for a, b in zip(before, script.seen, strict=True)]
        else:
            script.run()
        runs.append(script)
    assert runs[0].seen == runs[1].seen
    assert torch.equal(runs[0].weights, runs[1].weights)
    assert events(bench.events_path(), "attached")[0]["accumulation"] == 1


def test_what_the_loader_was_is_kept(here: Callable[..., None], bench: Bench) -> None:
    started: list[int] = []

    def collate(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        i, x, y = torch.utils.data.default_collate(items)
        return i, x, y + (1000 if info is not None else 0)

    here(PLANNER_GLOBAL_BATCH=64, PLANNER_LOADER_WORKERS=1)
    script = Script()
    script.loader = DataLoader(
        Numbers(), batch_size=16, shuffle=True, collate_fn=collate, drop_last=True
    )
    job = script.attach()
    for _, batches in job.epochs(script.loader):
        for i, _, y in batches:
            started.append(len(i))
            assert (y > 500).all(), "collated by the script's function, in a loader process"
    assert started == [64, 64, 64] * EPOCHS, "the last, shorter batch was to be dropped"
    job._gear.courier.close()  # type: ignore[attr-defined]
    said = events(bench.events_path(), "attached")[0]
    assert (said["loader_workers"], said["steps_per_epoch"]) == (1, 3)


def test_nothing_of_the_sdk_shows_in_state_dicts(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    kept: list[dict[str, Any]] = []

    def each(script: Script) -> None:
        buffer = io.BytesIO()
        states = {
            "scheduler": script.scheduler.state_dict(),
            "optimizer": script.optimizer.state_dict(),
            "model": script.model.state_dict(),
        }
        torch.save(states, buffer)
        buffer.seek(0)
        kept.append(torch.load(buffer, weights_only=True))
        assert isinstance(script.scheduler, torch.optim.lr_scheduler.OneCycleLR)

    script = Script()
    own_step, kind = script.optimizer.step, type(script.scheduler)
    script.each = each
    script.run()
    assert set(kept[0]["scheduler"]) == set(Script().scheduler.state_dict())
    assert script.optimizer.step is own_step
    assert type(script.scheduler) is kind
    assert "zero_grad" not in vars(script.model)


def test_a_schedule_made_inside_the_loop_still_works(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    script = Script()
    script.each = lambda s: torch.optim.lr_scheduler.StepLR(s.optimizer, 1000) and None
    script.run()
    assert (script.weights != Script().weights).any()


def test_accumulation_with_a_gradient_scaler_is_refused(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    with pytest.raises(sdk.SdkError, match="gradient scaler"):
        Script().run(scaler=torch.amp.GradScaler("cpu"))


def test_a_gradient_scaler_is_kept_when_each_step_is_one_batch(
    here: Callable[..., None], bench: Bench
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    Script().run(scaler=scaler)
    again = torch.amp.GradScaler("cpu", init_scale=8.0)
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    Script().run(scaler=again)
    assert again.get_scale() == 4.0


class ClearsByItself(Script):
    def act(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None
        self.loss(x, y).backward()
        self.optimizer.step()
        self.scheduler.step()


def test_gradients_that_the_script_drops_by_itself_are_missed(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    with pytest.raises(sdk.SdkError, match="clears gradients by itself"):
        ClearsByItself().run()
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=64)
    script = ClearsByItself().run()
    assert (script.weights - by_hand(script.seen)).abs().max() < EXACT


def test_a_script_that_leaves_its_loop_early_gets_its_signals_back(
    here: Callable[..., None],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=16)
    script = Script()
    own_step = script.optimizer.step
    job = script.attach()
    for _, batches in job.epochs(script.loader):
        for _, x, y in batches:
            assert signal.getsignal(signal.SIGTERM) != before
            script.act(x, y)
            break
        break
    assert signal.getsignal(signal.SIGTERM) == before
    assert script.optimizer.step is own_step
    job._gear.courier.close()  # type: ignore[attr-defined]


def test_a_probe_repeats_the_slice_and_ends_with_one_tail_and_one_checkpoint(
    here: Callable[..., None], bench: Bench
) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH, PLANNER_MICRO_BATCH=32, PLANNER_PROBE_STEPS=30)
    script = Script()
    job = script.attach()
    assert job.probing
    tails = 0
    with pytest.raises(SystemExit) as left:
        for epoch, batches in job.epochs(script.loader):
            for i, x, y in batches:
                script.seen[epoch] += i.tolist()
                script.act(x, y)  # its schedule is 12 steps long: a probe leaves it alone
            tails += 1
    assert left.value.code == 0
    assert tails == 1
    assert sorted(script.seen[0][:SAMPLES]) == list(range(SAMPLES))
    said = events(bench.events_path())
    assert sum(len(e["step_time_s"]) for e in said if e["type"] == "steps") == 30
    assert [e["type"] for e in said if e["type"] in ("epoch", "checkpoint", "probe_finished")] == [
        "epoch",
        "checkpoint",
        "probe_finished",
    ]
    assert events(bench.events_path(), "memory")[-1]["peak_rss_bytes"] > 0


def test_numbers_logged_are_read_out_later(here: Callable[..., None], bench: Bench) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    script = Script()
    job = script.attach()
    for _ in job.epochs(script.loader):
        total = torch.tensor(1.5)
        job.log(loss=total, nan=float("nan"), count=np.int64(3), text="fine")
        total += 1  # changed in place after it was logged
    with pytest.raises(sdk.SdkError, match="takes a number"):
        job.log(loss=torch.zeros(2))
    job._gear.courier.close()  # type: ignore[attr-defined]
    values = [event["values"] for event in events(bench.events_path(), "metric")]
    assert values == [{"loss": 1.5, "nan": None, "count": 3, "text": "fine"}] * EPOCHS


def test_other_data_at_a_resume_is_refused(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    Script().run()
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    script = Script()
    script.loader = DataLoader(Numbers(samples=100), batch_size=16, shuffle=True)
    with pytest.raises(sdk.SdkError, match="100 samples"):
        script.run()


def test_another_model_at_a_resume_is_refused(here: Callable[..., None]) -> None:
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    Script().run()
    here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
    with pytest.raises(sdk.SdkError, match="does not fit the script's model"):
        sdk.attach(epochs=1, model=nn.Linear(2, 2))


def test_a_scripts_own_saver_is_used(here: Callable[..., None], bench: Bench) -> None:
    saved: dict[str, Any] = {}

    def save(folder: Path) -> None:
        torch.save(script.model.state_dict(), folder / "mine.pt")

    def load(folder: Path) -> None:
        saved.update(torch.load(folder / "mine.pt", weights_only=True))

    for _ in range(2):
        here(PLANNER_GLOBAL_BATCH=GLOBAL_BATCH)
        script = Script()
        script.run(save=save, load=load)
    assert set(saved) == set(Script().model.state_dict())


@pytest.mark.parametrize("global_batch", [None, 64])
def test_steps_per_epoch_counts_optimiser_steps(
    here: Callable[..., None], global_batch: int | None
) -> None:
    here(PLANNER_GLOBAL_BATCH=global_batch or "", PLANNER_MICRO_BATCH=16)
    assert sdk.steps_per_epoch(Script().loader) == (STEPS_PER_EPOCH if global_batch else 13)
