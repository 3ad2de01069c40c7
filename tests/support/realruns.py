"""The real `planner` command on real training, for tests that go from end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from planner.services.live import LiveServices
from planner.services.runs.runlock import supervisor_pid
from planner.store.layout import StateDir

ROOT = Path(__file__).parents[2]
PLANNER = Path(sys.executable).with_name("planner")

SAMPLES, GLOBAL_BATCH, EPOCHS = 331, 32, 3
STEPS_PER_EPOCH = 11  # the last one of 11 samples
SCRIPT = '''\
"""A small network on made-up numbers that writes down which samples each step was trained on."""
import json, os, sys, time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import planner.sdk as planner

EPOCHS, STEP_S = int(sys.argv[1]), float(sys.argv[2])
RANK, WORKERS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
OUTPUT = Path(os.environ["PLANNER_OUTPUT_DIR"])


class Slow:
    """Something to keep that takes its time, so that there is a middle of a checkpoint."""

    def state_dict(self):
        time.sleep(0.3)
        return {}

    def load_state_dict(self, state):
        pass


draw = torch.Generator().manual_seed(1)
x = torch.randn(331, 16, generator=draw, dtype=torch.float64)
data = TensorDataset(torch.arange(331), x, x.sum(1, keepdim=True).sin())
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 1)).double()
weights = model
if WORKERS > 1:
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(model)
torch.manual_seed(RANK)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
job = planner.attach(model=model, optimizer=optimizer, epochs=EPOCHS, state={"slow": Slow()})
log = open(OUTPUT / f"steps-{RANK}.ndjson", "a", buffering=1)
for epoch, batches in job.epochs(DataLoader(data, batch_size=16, shuffle=True)):
    for samples, features, target in batches:
        at = {"attempt": int(os.environ["PLANNER_ATTEMPT"]), "epoch": epoch, "step": job.step}
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(features), target)
        loss.backward()
        optimizer.step()
        log.write(json.dumps({**at, "samples": samples.tolist()}) + "\\n")
        job.log(loss=loss)
        if not (OUTPUT / "hurry").exists():
            time.sleep(STEP_S)
    print(f"epoch {epoch + 1} is done", flush=True)
if RANK == 0:
    torch.save(weights.state_dict(), OUTPUT / "weights.pt")
if WORKERS > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
'''

_SELF_JOINED = """if WORKERS > 1:
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(model)
"""
_CLOSED = """if RANK == 0:
    torch.save(weights.state_dict(), OUTPUT / "weights.pt")
if WORKERS > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
_SAVED = """if job.leads:
    torch.save(weights.state_dict(), OUTPUT / "weights.pt")
"""


def crew_script() -> str:
    """`SCRIPT` as it is written for workers that planner joins."""
    assert _SELF_JOINED in SCRIPT and _CLOSED in SCRIPT
    return SCRIPT.replace(_SELF_JOINED, "").replace(_CLOSED, _SAVED)


JOB = """\
[job]
name = "small"
command = "python train.py {epochs} STEP_S"
epochs = EPOCHS
global_batch = 32
micro_batches = [MICRO_BATCH]
workers = [WORKERS]

[probe]
steps = 5
warmup = 1

[run]
checkpoint_interval = "1s"

[[where]]
runner = "local"
device = "cpu"
slots = 2
usd_per_slot_h = 36       # a cent a second, so that money can be seen to run
"""


@dataclass
class Work:
    """A folder with a job, a state directory, and the real command on them."""

    path: Path
    """The job's folder; commands run in it."""

    @property
    def state(self) -> StateDir:
        return StateDir(self.path / "state")

    @property
    def services(self) -> LiveServices:
        """As a new process would have them: nothing remembered."""
        return LiveServices(self.state.path)

    def command(self, *arguments: str) -> list[str]:
        return [str(PLANNER), "--state-dir", str(self.state.path), *arguments]

    def planner(self, *arguments: str, code: int = 0) -> str:
        """What the command prints; it ends with `code`."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The document that the command prints."""
        return json.loads(self.planner(*arguments, "--json", code=code))

    def wait(
        self, run_id: str, done: Callable[[], bool], what: str, *, poll_s: float = 0.02
    ) -> None:
        until_s = time.monotonic() + 120
        while not done():
            if time.monotonic() > until_s:
                log = self.state.run(run_id).supervisor_log
                raise AssertionError(f"never saw {what}: {log.read_text() if log.exists() else ''}")
            time.sleep(poll_s)

    def wait_alone(self, run_id: str) -> None:
        """Until no process of the run is left."""
        self.wait(run_id, lambda: not self.processes(), "the workers leave", poll_s=0.2)

    def hurry(self, run_id: str) -> None:
        """Let the job train at full speed from here on: what it was to be slow for is over."""
        (self.state.run(run_id).output / "hurry").touch()

    def rest(self, run_id: str) -> str:
        """The state in which the run comes to rest, nothing of it left."""
        resting = {"done", "failed", "paused", "cancelled", "stopped_by_cap"}

        def state() -> str:
            return self.services.view(run_id).summary.state.value

        self.wait(run_id, lambda: state() in resting, "the run rest", poll_s=0.2)
        self.wait_alone(run_id)
        return state()

    def processes(self) -> list[psutil.Process]:
        """Every process that works for this state directory, this one left out."""
        found = []
        for process in psutil.process_iter():
            try:
                said = [*process.cmdline(), *process.environ().values()]
                ended = process.status() == psutil.STATUS_ZOMBIE
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            ours = any(str(self.path) in text for text in said)
            if ours and not ended and process.pid != os.getpid():
                found.append(process)
        return found

    def kill_supervisor(self, run_id: str, *, with_workers: bool = False) -> None:
        """`kill -9`; with its workers as when a machine loses its power."""
        pid = supervisor_pid(self.state.run(run_id))
        assert pid is not None, "there is a supervisor to kill"
        doomed = psutil.Process(pid).children(recursive=True) if with_workers else []
        for process in doomed:
            process.suspend()  # none of them does anything while the others are ended
        os.kill(pid, signal.SIGKILL)
        for process in doomed:
            process.kill()

    def end_all(self) -> None:
        """Leave nothing running, whatever the test came to."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def small_job(folder: Path, *, workers: int = 2, epochs: int = EPOCHS, step_s: float = 0.1) -> Work:
    """A job of seconds on `workers` workers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    values = {
        "EPOCHS": epochs,
        "STEP_S": step_s,
        "WORKERS": workers,
        "MICRO_BATCH": GLOBAL_BATCH // workers,
    }
    text = JOB
    for name, value in values.items():
        text = text.replace(name, str(value))
    (folder / "job.toml").write_text(text)
    return Work(folder)
