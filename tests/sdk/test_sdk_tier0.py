"""Tier 0: scripts that know nothing of planner."""

from __future__ import annotations

import json

import pytest
from support.sdkbench import Bench, events

SCRIPT = """
    import os, sys, time
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.randn(50, 4), torch.randn(50, 1))
    loader, val_loader = DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, 50)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, y in val_loader:
                time.sleep(0.05)
    print("the end")
"""


@pytest.mark.torch
def test_steps_waits_and_epochs_of_a_plain_script_are_seen(bench: Bench) -> None:
    (done,) = bench.run(bench.script(SCRIPT))
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr
    (attached,) = events(bench.events_path(), "attached")
    assert attached["tier"] == 0
    assert (attached["samples"], attached["micro_batch"], attached["steps_per_epoch"]) == (50, 8, 7)
    steps = events(bench.events_path(), "steps")
    times = [t for event in steps for t in event["step_time_s"]]
    waits = [w for event in steps for w in event["wait_s"]]
    assert len(times) == len(waits) == steps[-1]["step"] == 21
    assert all(0 < wait < time for wait, time in zip(waits, times, strict=True))
    epochs = events(bench.events_path(), "epoch")
    assert [event["step"] for event in epochs] == [7, 14]
    assert all(0.05 <= event["tail_s"] < event["duration_s"] for event in epochs)
    assert events(bench.events_path(), "memory")


@pytest.mark.torch
def test_a_probe_ends_a_plain_script_after_its_steps(bench: Bench) -> None:
    (done,) = bench.run(bench.script(SCRIPT), PLANNER_PROBE_STEPS=9)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert events(bench.events_path(), "steps")[-1]["step"] == 9
    finished = events(bench.events_path(), "probe_finished")[0]
    assert finished["steps"] == 9
    assert finished["model_bytes"] == finished["gradient_bytes"] > 0


def test_a_script_without_torch_is_left_alone(bench: Bench) -> None:
    script = bench.script("import sys, json\nprint(json.dumps(sorted(sys.modules)))")
    (done,) = bench.run(script)
    loaded = json.loads(done.stdout)
    assert "planner.sdk.shim" in loaded
    assert "torch" not in loaded
    assert not bench.events_path().exists()


def test_another_sitecustomize_still_runs(bench: Bench) -> None:
    other = bench.root / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("print('the other one')")
    script = bench.script("print('the script')")
    (done,) = bench.run(script, PYTHONPATH=f"{bench.stage}:{other}")
    assert done.stdout == "the other one\nthe script\n"


def test_without_planner_the_staged_folder_does_nothing(bench: Bench) -> None:
    script = bench.script("import sys\nprint('planner' in sys.modules)")
    (done,) = bench.run(script, PLANNER_EVENTS="")
    assert done.stdout == "False\n"
