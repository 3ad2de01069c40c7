"""Real runs on this machine for tests: a standard-library job under a real supervisor."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from planner.core.job import Goal, JobSpec, Place
from planner.core.types import EstimateResult, Knobs, ResourceConfig, RunState, WorkLoad
from planner.services.api import LaunchRequest
from planner.services.live import LiveServices
from planner.store.layout import RunDir, StateDir
from tests.support.runs import estimate_of, option_of

ROOT = Path(__file__).parents[2]
JOB = Path(__file__).with_name("contractjob.py")


def local_estimate(
    workdir: Path,
    *arguments: str,
    workers: int = 1,
    usd_per_h: float = 0.36,
    name: str = "digits",
    goal: Goal | None = None,
    command: tuple[str, ...] = (),
    run_s: float = 4.0,
    **job_changes: Any,
) -> EstimateResult:
    """An estimate whose one option runs `contractjob.py` on this machine."""
    settings = {"slots": 2, "usd_per_slot_h": usd_per_h / workers, "device": "cpu"}
    job = JobSpec(
        name=name,
        command=command or (sys.executable, str(JOB), *arguments),
        workdir=str(workdir),
        samples=300,
        epochs=1,
        global_batch=10,
        tier=1,
        places=(Place(runner="local", pool="cpu", settings=settings),),
        **job_changes,
    )
    shape = ResourceConfig(
        runner="local",
        pool="cpu",
        market="local",
        workers_per_node=workers,
        vcpus_per_node=workers,
    )
    knobs = Knobs(micro_batch=10 // workers, accumulation=1, global_batch=10)
    option = option_of(shape, knobs, run_s, usd_per_h, 200.0)
    work = WorkLoad(samples=300, epochs=1, fingerprint="sha256:abc")
    return estimate_of(job, option, goal or Goal(), work=work)


@dataclass
class Desk:
    """A state directory with services on it."""

    path: Path

    @property
    def state(self) -> StateDir:
        return StateDir(self.path / "state")

    @property
    def services(self) -> LiveServices:
        """As a new process would have them: nothing remembered."""
        return LiveServices(self.path / "state")

    def launch(self, *arguments: str, **changes: Any) -> str:
        request = LaunchRequest(
            estimate=local_estimate(self.path, *arguments, **changes), option_id="o1"
        )
        return self.services.launch(request)

    def run(self, run_id: str) -> RunDir:
        return self.state.run(run_id)

    def wait(self, run_id: str, what: Callable[[Any], bool], timeout_s: float = 60.0) -> Any:
        """The view once it is as wanted."""
        services, until = self.services, time.monotonic() + timeout_s
        while time.monotonic() < until:
            view = services.view(run_id)
            if what(view):
                return view
            time.sleep(0.05)
        log = self.run(run_id).supervisor_log
        said = log.read_text() if log.exists() else ""
        raise AssertionError(f"still {view.summary.state} at step {view.step}: {said}")

    def rest(self, run_id: str) -> RunState:
        """The state the run comes to rest in, its supervisor gone."""
        resting = ("done", "failed", "paused", "cancelled", "stopped_by_cap")
        self.wait(run_id, lambda v: v.summary.state.value in resting)
        # Looked at again: a supervisor that takes over may first tell that the run had been paused.
        self.wait(run_id, lambda v: not self.services._shelf.alive(run_id))
        return self.services.view(run_id).summary.state

    def weights(self, run_id: str) -> list[int]:
        """The steps that went into the final weights, in order."""
        found: list[int] = json.loads((self.run(run_id).output / "weights.json").read_text())
        return found

    def kinds(self, run_id: str) -> list[str]:
        return [event.type for event in self.services.events(run_id)]

    def now(self) -> datetime:
        return datetime.now(UTC)
