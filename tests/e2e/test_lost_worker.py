"""`kill -9` of a worker of real training that planner joins: the others go on, and one comes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from support.realruns import SAMPLES, STEPS_PER_EPOCH, Work, small_job

pytestmark = pytest.mark.torch

EPOCHS = 20
SCRIPT = '''\
"""A small network that knows of no other worker, and writes down what each step is trained on."""
import json, os, sys, time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import planner.sdk as planner

EPOCHS, STEP_S = int(sys.argv[1]), float(sys.argv[2])
OUTPUT = Path(os.environ["PLANNER_OUTPUT_DIR"])
draw = torch.Generator().manual_seed(1)
x = torch.randn(331, 16, generator=draw, dtype=torch.float64)
data = TensorDataset(torch.arange(331), x, x.sum(1, keepdim=True).sin())
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)).double()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
job = planner.attach(model=model, optimizer=optimizer, epochs=EPOCHS)
crew = job._gear.crew
log = open(OUTPUT / f"seen-{os.environ['PLANNER_WORKER']}.ndjson", "a", buffering=1)
for epoch, batches in job.epochs(DataLoader(data, batch_size=16, shuffle=True)):
    for samples, features, target in batches:
        at = {"epoch": epoch, "step": job.step, "generation": crew.generation}
        log.write(json.dumps({**at, "samples": samples.tolist()}) + "\\n")
        if not (OUTPUT / "hurry").exists():
            time.sleep(STEP_S)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(features), target)
        loss.backward()
        optimizer.step()
        job.log(loss=loss)
if job.leads:
    torch.save(model.state_dict(), OUTPUT / "weights.pt")
'''


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """One job for all tests here, estimated once."""
    work = small_job(tmp_path_factory.mktemp("lost"), workers=2, epochs=EPOCHS, step_s=0.2)
    (work.path / "train.py").write_text(SCRIPT)
    work.planner("estimate", "job.toml")
    yield work
    work.end_all()


def process_of(work: Work, worker: int) -> psutil.Process:
    """The training process of that number."""
    for process in work.processes():
        try:
            mine = process.environ().get("PLANNER_WORKER") == str(worker)
            if mine and "train.py" in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    raise AssertionError(f"worker {worker} does not run")


def changes(work: Work, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = work.json("status", run_id)["adjustments"]
    return found


def trained(work: Work, run_id: str) -> list[Counter[int]]:
    """How often each sample counted, by epoch: a step that was done again counts as done last."""
    texts = [path.read_text() for path in work.state.run(run_id).output.glob("seen-*.ndjson")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    last: dict[int, int] = {}
    for line in lines:
        last[line["step"]] = max(last.get(line["step"], 0), line["generation"])
    assert sorted(last) == list(range(EPOCHS * STEPS_PER_EPOCH))
    epochs = [Counter[int]() for _ in range(EPOCHS)]
    for line in lines:
        if line["generation"] == last[line["step"]]:
            epochs[line["epoch"]].update(line["samples"])
    return epochs


@pytest.mark.parametrize("worker", [0, 1], ids=["the-leader", "another"])
def test_kill_9_of_a_worker_loses_no_sample(work: Work, worker: int) -> None:
    run_id = work.json("run", "job.toml", "--yes", "--detach", "--name", f"lost-{worker}")["run_id"]
    output = work.state.run(run_id).output
    work.wait(run_id, lambda: work.services.view(run_id).step > 3, "the first steps", poll_s=0.2)
    process_of(work, worker).kill()

    work.wait(run_id, lambda: len(changes(work, run_id)) == 2, "a replacement", poll_s=0.5)
    work.hurry(run_id)
    assert work.rest(run_id) == "done"

    run = work.json("status", run_id)
    assert (run["state"], run["attempts"]) == ("done", 1)
    assert run["progress"]["step"] == run["progress"]["steps_total"] == EPOCHS * STEPS_PER_EPOCH
    assert [change["reason"] for change in run["adjustments"]] == ["lost", "replaced"]
    assert [change["lost_samples"] for change in run["adjustments"]] == [0, 0]
    assert [change["workers"] for change in run["adjustments"]] == [1, 2]
    assert run["in_force"]["crew"] == [1 - worker, 2]
    assert trained(work, run_id) == [Counter(range(SAMPLES))] * EPOCHS
    assert (output / "weights.pt").exists()
