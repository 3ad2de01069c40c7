"""Two real workers over gloo: each sample once, the same weights, all act at the same step."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from support.sdkbench import Bench, events
from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("forking")]

SAMPLES, GLOBAL_BATCH, EPOCHS = 203, 64, 3
SCRIPT = """
    import json, os, signal, sys
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_
    from torch.utils.data import DataLoader, TensorDataset
    import planner.sdk as planner

    STOP_AT = int(os.environ.get("STOP_AT", "-1"))
    CLIP = float(os.environ.get("CLIP", "0"))
    RANK, WORKERS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(203, 4, generator=draw, dtype=torch.float64)
    data = TensorDataset(torch.arange(203), x, x.sum(1, keepdim=True).sin())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    inner = model
    if WORKERS > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    torch.manual_seed(RANK)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    job = planner.attach(model=model, optimizer=optimizer, epochs=3)
    seen, drawn, norms = [[], [], []], [[], [], []], []
    try:
        for epoch, batches in job.epochs(DataLoader(data, batch_size=16, shuffle=True)):
            for i, features, target in batches:
                seen[epoch] += i.tolist()
                drawn[epoch].append(torch.rand(1).item())
                optimizer.zero_grad()
                nn.functional.mse_loss(model(features), target).backward()
                if CLIP:  # for every micro-batch, as a script that knows nothing of them does
                    norms.append(clip_grad_norm_(model.parameters(), CLIP).item())
                optimizer.step()
                if job.step == STOP_AT and RANK == WORKERS - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
            i.sum()  # what the loop over batches set: there is no epoch without one
    finally:
        weights = [p.tolist() for p in inner.parameters()]
        said = {"seen": seen, "drawn": drawn, "norms": norms, "weights": weights}
        print(json.dumps(said | {"steps": job.step}))
    if WORKERS > 1:
        torch.distributed.destroy_process_group()
"""


def start(bench: Bench, *, code: int = 0, **variables: Any) -> list[dict[str, Any]]:
    script = bench.script(SCRIPT)
    shape = {"PLANNER_GLOBAL_BATCH": GLOBAL_BATCH, "PLANNER_MICRO_BATCH": 16}
    done = bench.run(script, **(shape | {"workers": 2} | variables))
    assert [d.returncode for d in done] == [code] * len(done), done[0].stderr + done[-1].stderr
    return [json.loads(d.stdout) for d in done]


def order(*runs: list[dict[str, Any]]) -> list[list[int]]:
    """Samples that any worker saw in any run, by epoch, sorted."""
    said = [worker["seen"] for run in runs for worker in run]
    return [sorted(i for seen in said for i in seen[epoch]) for epoch in range(EPOCHS)]


ONCE_EACH = [list(range(SAMPLES))] * EPOCHS


def plain_loop(seen: list[list[int]], clip: float = 0.0) -> list[torch.Tensor]:
    """The same training in one process, by hand, in this order; its weights."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 4, generator=draw, dtype=torch.float64)
    y = x.sum(1, keepdim=True).sin()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in seen:
        for start_at in range(0, SAMPLES, GLOBAL_BATCH):
            chosen = epoch[start_at : start_at + GLOBAL_BATCH]
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[chosen]), y[chosen]).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_two_workers_stop_at_one_step_and_go_on_as_if_nothing_had_been(bench: Bench) -> None:
    whole = start(bench, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    assert order(whole) == ONCE_EACH
    assert whole[0]["weights"] == whole[1]["weights"]
    attached = [events(bench.events_path(rank), "attached") for rank in (0, 1)]
    assert [[(a["tier"], a["rank"], a["accumulation"]) for a in said] for said in attached] == [
        [(1, 0, 2)],
        [(1, 1, 2)],
    ]
    assert not events(bench.events_path(1), "steps"), "rank 0 speaks"

    first = start(bench, code=75, STOP_AT=5)
    assert first[0]["steps"] == first[1]["steps"] > 5, "a signal to one stops both, at one step"
    kept = sorted(bench.checkpoints.iterdir())[-1]
    names = torch.load(kept / "state.pt", weights_only=True)["model"].keys()
    assert set(names) == {"0.weight", "0.bias", "2.weight", "2.bias"}, "saved without the wrapper"
    shutil.copytree(bench.checkpoints, bench.root / "for-one")

    second = start(bench)
    assert order(first, second) == ONCE_EACH
    assert second[0]["weights"] == whole[0]["weights"]
    for rank in (0, 1):
        parts = zip(first[rank]["drawn"], second[rank]["drawn"], strict=True)
        assert [a + b for a, b in parts] == whole[rank]["drawn"], "each rank's own random numbers"

    alone = start(bench, workers=1, PLANNER_CHECKPOINT_DIR=bench.root / "for-one")
    assert order(first, alone) == ONCE_EACH
    seen = [a + b for a, b in zip(merged(first), alone[0]["seen"], strict=True)]
    for mine, expected in zip(alone[0]["weights"], plain_loop(seen), strict=True):
        difference = (torch.tensor(mine, dtype=torch.float64) - expected).abs().max()
        assert difference < 1e-12, "as one process does by hand"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_at_an_epochs_last_step_is_resumed_with_a_whole_epoch(
    bench: Bench, workers: int
) -> None:
    whole = start(bench, workers=workers, PLANNER_CHECKPOINT_DIR=bench.root / "other")
    first = start(bench, workers=workers, code=75, STOP_AT=3)
    saved = events(bench.events_path(), "checkpoint")[-1]
    assert (saved["epoch"], saved["step"]) == (1, 4)
    second = start(bench, workers=workers)
    assert order(first, second) == ONCE_EACH
    assert second[0]["weights"] == whole[0]["weights"]


@pytest.mark.parametrize("micro_batch", [16, 13])
def test_two_workers_clip_the_gradient_of_the_whole_step(bench: Bench, micro_batch: int) -> None:
    """Neither a worker's own share nor one micro-batch is what the script means to clip."""
    whole = start(bench, PLANNER_MICRO_BATCH=micro_batch, CLIP=0.1)
    assert events(bench.events_path(), "attached")[0]["accumulation"] > 1
    assert order(whole) == ONCE_EACH
    assert whole[0]["weights"] == whole[1]["weights"]
    clipped = [norm for norm in whole[0]["norms"] if norm > 0.1]
    assert len(clipped) >= EPOCHS, "there was something to clip"
    assert clipped == [norm for norm in whole[1]["norms"] if norm > 0.1]
    one = plain_loop(merged(whole), clip=0.1)
    for mine, expected in zip(whole[0]["weights"], one, strict=True):
        difference = (torch.tensor(mine, dtype=torch.float64) - expected).abs().max()
        assert difference < 1e-12, "as one worker does with whole batches"


def merged(run: list[dict[str, Any]]) -> list[list[int]]:
    """Samples in the order of steps: shares are contiguous, 32 and 32, in the last one 6 and 5."""
    out = []
    for epoch in range(EPOCHS):
        left, right = (worker["seen"][epoch] for worker in run)
        steps = [left[k : k + 32] + right[k : k + 32] for k in range(0, len(left), 32)]
        out.append([i for step in steps for i in step])
    return out


def test_workers_without_a_process_group_are_told(bench: Bench) -> None:
    script = bench.script("import planner.sdk as planner\nplanner.attach(epochs=1)")
    (done, _) = bench.run(script, workers=2)
    assert done.returncode == 1
    assert "give attach() the model and the optimizer" in done.stderr
    assert "or call torch.distributed.init_process_group() before it" in done.stderr
