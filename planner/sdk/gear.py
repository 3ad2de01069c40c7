"""What takes part in training besides the loader, put together once when the script attaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.sdk.accumulate import Accumulation
from planner.sdk.boundary import Requests
from planner.sdk.courier import Courier
from planner.sdk.crew.crew import Crew
from planner.sdk.distributed import Workers
from planner.sdk.environment import WorkerEnv
from planner.sdk.keeper import Keeper
from planner.sdk.signals import StopFlag
from planner.sdk.state import Parts
from planner.sdk.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Gear:
    """One worker's parts. `crew` is None where the script joins its workers by itself."""

    env: WorkerEnv
    epochs: int
    parts: Parts
    device: Any
    crew: Crew | None
    workers: Workers
    stop: StopFlag
    courier: Courier
    keeper: Keeper
    requests: Requests
    accumulation: Accumulation
    stopwatch: Stopwatch

    @property
    def probing(self) -> bool:
        """Whether this is a short trial, whose results nobody will keep."""
        return self.env.probe_steps is not None
