"""A job whose workers planner joins, in a test: processes that come, go and are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from .nursery import Child, Nursery
from .sdkbench import Bench, events

SCRIPT = """
    import json, os, sys, time
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    import planner.sdk as planner

    torch.set_num_threads(1)
    SAMPLES = int(os.environ.get("SAMPLES", "203"))
    EPOCHS = int(os.environ["EPOCHS"])
    LOADERS = int(os.environ.get("LOADERS", "0"))
    PAUSE_S = float(os.environ.get("PAUSE_S", "0.08"))
    DTYPE = getattr(torch, os.environ.get("DTYPE", "float64"))
    NORM = os.environ.get("NORM", "group")

    class Data(Dataset):
        def __init__(self):
            draw = torch.Generator().manual_seed(1)
            self.x = torch.randn(SAMPLES, 4, generator=draw, dtype=DTYPE)
            self.y = self.x.sum(1, keepdim=True).sin()
        def __len__(self):
            return SAMPLES
        def __getitem__(self, i):
            return i, self.x[i], self.y[i]

    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8) if NORM == "batch" else nn.GroupNorm(2, 8)
    model = nn.Sequential(
        nn.Linear(4, 8), norm, nn.Tanh(),
        nn.Dropout(float(os.environ.get("DROPOUT", "0"))), nn.Linear(8, 1),
    ).to(DTYPE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(Data(), batch_size=16, shuffle=True, num_workers=LOADERS)
    total = EPOCHS * planner.steps_per_epoch(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=total)
    job = planner.attach(
        model=model, optimizer=optimizer, scheduler=scheduler, epochs=EPOCHS
    )
    log = open(os.environ["SEEN"], "a", buffering=1)
    crew = job._gear.crew
    for epoch, batches in job.epochs(loader):
        for i, features, target in batches:
            seen = {"step": job.step, "generation": crew.generation, "epoch": epoch}
            log.write(json.dumps(seen | {"ids": i.tolist(), "workers": job.workers}) + "\\n")
            if os.path.exists(os.environ["SLOW"]):
                time.sleep(PAUSE_S)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(features), target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
        if job.leads:
            with torch.no_grad():
                output = model.eval()(loader.dataset.x)
                job.log(val=nn.functional.mse_loss(output, loader.dataset.y).item())
            model.train()
    if job.leads:
        kept = {"model": model.state_dict(), "lr": optimizer.param_groups[0]["lr"]}
        torch.save(kept, os.environ["WEIGHTS"])
    print(json.dumps({"steps": job.step}))
"""


EPOCHS = 60
"""Of seven steps each: some 30 s at a slow pace, which is enough for a few changes."""


class CrewBench:
    """One attempt of a job: workers by their numbers, and what is wanted of them.

    It trains slowly until `finish` is called, so that changes find it at work.
    """

    made: ClassVar[list[CrewBench]] = []
    """All there are, so that a test that fails leaves no process behind."""

    def __init__(
        self,
        bench: Bench,
        script: str = SCRIPT,
        nursery: Nursery | None = None,
        **variables: object,
    ) -> None:
        """Workers are forked in `nursery`, or start as on any machine, which takes seconds."""
        CrewBench.made.append(self)
        self._nursery = nursery
        self.bench = bench
        self.script = bench.script(script)
        self.weights = bench.root / f"weights-{bench.attempt + 1}.pt"
        self.processes: dict[int, subprocess.Popen[str] | Child] = {}
        self._slow = bench.root / f"slow-{bench.attempt + 1}"
        self._slow.touch()
        self._variables: dict[str, object] = {
            "PLANNER_GLOBAL_BATCH": 32,
            "EPOCHS": EPOCHS,
            "SLOW": self._slow,
            "WEIGHTS": self.weights,
            **variables,
        }
        self._seq = 0
        self._attempt = 0
        self._wanted: dict[str, object] = {}

    def start(self, workers: int = 1) -> None:
        """The first workers."""
        self.bench.attempt += 1
        self._attempt = self.bench.attempt
        for rank in range(workers):
            self._launch(rank, RANK=rank, WORLD_SIZE=workers)

    def grow(self, **variables: object) -> int:
        """One more worker, which waits to be let in; its number."""
        number = max(self.processes) + 1
        size = len(self.alive) + 1
        joins = {"PLANNER_JOIN": 1, "RANK": number, "WORLD_SIZE": size}
        self._launch(number, **(joins | variables))
        return number

    def _launch(self, number: int, **variables: object) -> None:
        basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        own = {"PLANNER_WORKER": number, "SEEN": self.seen_path(number)}
        shared = {"PYTHONPATH": self.bench.stage, "OMP_NUM_THREADS": 1}
        env = self.bench.environment(number, **(shared | self._variables | own | variables))
        path = self.bench.root / f"out-{self._attempt}-{number}.txt"
        if self._nursery is not None:
            self.processes[number] = self._nursery.start(self.script, basic | env, path)
            return
        with open(path, "w") as out:
            self.processes[number] = subprocess.Popen(
                [sys.executable, str(self.script)],
                env=basic | env,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )

    def seen_path(self, number: int) -> Path:
        return self.bench.root / f"seen-{self._attempt}-{number}.ndjson"

    @property
    def alive(self) -> list[int]:
        return [n for n, process in self.processes.items() if process.poll() is None]

    def want(self, wish: str, **values: object) -> None:
        """Have this wanted from now on, beside what was before."""
        self._seq += 1
        self._wanted |= values
        self.bench.order(seq=self._seq, adjust={"id": wish, **self._wanted})

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What any worker said of one kind, in order."""
        paths = (self.bench.events_path(number) for number in self.processes)
        said = [event for path in paths if path.exists() for event in events(path, kind)]
        return sorted(said, key=lambda event: float(event["t"]))

    def step(self) -> int:
        return max((event["step"] for event in self.events("steps")), default=0)

    def until(self, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait; fails with what the workers printed."""
        until_s = time.monotonic() + timeout_s
        while not done():
            if not self.alive or time.monotonic() > until_s:
                if done():
                    return
                raise AssertionError(f"it never came to that\n{self.output()}")
            time.sleep(0.02)

    def until_ready(self, number: int) -> None:
        self.until(lambda: any(event["worker"] == number for event in self.events("ready")))

    def until_adjusted(self, wish: str | None = None, count: int = 1) -> dict[str, Any]:
        """The event of a change that was asked for; without a wish, the last of `count` losses."""
        self.until(lambda: len(self._adjusted(wish)) >= count)
        return self._adjusted(wish)[-1]

    def _adjusted(self, wish: str | None) -> list[dict[str, Any]]:
        return [event for event in self.events("adjusted") if event["id"] == wish]

    def crew(self) -> list[int]:
        """Who trains, as it was told last; before anything was told, the first workers."""
        told = [event["crew"] for event in self.events("adjusted")]
        first = [event["worker"] for event in self.events("attached") if not event["joins"]]
        return list(told[-1]) if told else sorted(first)

    def output(self) -> str:
        paths = sorted(self.bench.root.glob(f"out-{self._attempt}-*.txt"))
        told = [*self.events("adjusted")[-2:], *self.events("adjust_refused")[-2:]]
        printed = [f"--- {path.name}\n{path.read_text()}" for path in paths]
        return "\n".join([*printed, f"wanted {self._wanted}", *map(str, told)])

    def finish(self, timeout_s: float = 90.0) -> dict[int, int]:
        """Wait for all, at full speed from here on; exit codes by worker number."""
        self._slow.unlink(missing_ok=True)
        until_s = time.monotonic() + timeout_s
        try:
            for process in self.processes.values():
                process.wait(max(0.1, until_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it never ended\n{self.output()}") from error
        finally:
            self.kill_all()
        return {number: process.wait() for number, process in self.processes.items()}

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def trained(self) -> list[Counter[int]]:
        """How often each sample counted, by epoch: of each step the last time it was done."""
        lines = []
        for number in self.processes:
            if self.seen_path(number).exists():
                lines += [
                    json.loads(line) for line in self.seen_path(number).read_text().splitlines()
                ]
        last: dict[int, int] = {}
        for line in lines:
            last[line["step"]] = max(last.get(line["step"], 0), line["generation"])
        epochs: dict[int, Counter[int]] = {}
        for line in lines:
            if line["generation"] == last[line["step"]]:
                epochs.setdefault(line["epoch"], Counter()).update(line["ids"])
        return [epochs[epoch] for epoch in sorted(epochs)]
