"""An estimate of a real training script: torch, the SDK, and workers that synchronise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.core.clock import SystemClock
from planner.core.events import ignore
from planner.core.job import Goal, JobSpec, Place, ProbeSettings
from planner.services.api import EstimateRequest
from planner.services.estimating.estimate import Estimator

pytestmark = pytest.mark.torch

SCRIPT = """\
import os

import torch
import planner.sdk as planner

torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(400, 64), torch.randint(0, 4, (400,)))
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))
if int(os.environ.get("WORLD_SIZE", 1)) > 1:
    torch.distributed.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
job = planner.attach(model=model, optimizer=optimizer, epochs=4)
for epoch, batches in job.epochs(loader):
    for inputs, target in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), target)
        loss.backward()
        optimizer.step()
        job.log(loss=loss)
    job.log(loss_all=torch.nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1]))
"""


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    return JobSpec(
        name="real",
        command=("python", "train.py"),
        workdir=str(folder),
        epochs=4,
        tier=1,
        places=(Place(runner="local", pool="cpu", settings={"slots": 2, "usd_per_slot_h": 0.05}),),
        probe=ProbeSettings(steps=15, warmup_steps=3),
    )


def test_the_script_tells_its_work_and_is_measured(tmp_path: Path, job: JobSpec) -> None:
    estimator = Estimator(tmp_path / "state", SystemClock())
    goal = Goal(deadline_s=600)
    result = estimator.estimate(EstimateRequest(job=job, goal=goal), ignore)
    assert [(p.state, p.error) for p in result.probes] == [("ok", None)] * 3
    assert (result.work.samples, result.work.slice_fraction) == (400, 1.0)
    assert {o.knobs.global_batch for o in result.options} == {32}
    for probe in result.probes:
        assert probe.steps >= 5
        assert probe.checkpoint_bytes
        assert probe.tail_s is not None
        assert probe.peak_device_bytes
        assert probe.model_bytes == probe.gradient_bytes == 4 * (64 * 256 + 256 + 256 * 4 + 4)
        assert probe.optimizer_bytes == 0
    pick = result.option(result.recommendation.option_id or "")
    assert pick is not None
    assert pick.run_s.p05 < pick.run_s.p50 < pick.run_s.p95
    assert pick.memory_parts is not None
    assert pick.memory_parts.weights_bytes == result.probes[0].model_bytes


def test_a_real_crash_inside_a_step_is_told(tmp_path: Path, job: JobSpec) -> None:
    script = Path(job.workdir) / "train.py"
    script.write_text(SCRIPT.replace("loss.backward()", "loss.backward(); inputs @ inputs"))
    job = replace(job, worker_counts=(1,), global_batch=32, micro_batches=(32,))
    estimator = Estimator(tmp_path / "state", SystemClock())
    result = estimator.estimate(EstimateRequest(job=job, goal=Goal()), ignore)
    assert result.options == ()
    (probe,) = result.probes
    assert probe.state == "failed"
    assert "RuntimeError" in (probe.error or "")
    assert "shapes cannot be multiplied" in (probe.error or "")
