"""What planner told this worker, from its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.sdk.errors import SdkError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnv:
    """One worker's orders. None where planner said nothing.

    Attributes:
        worker: Its number, unique within the attempt.
        joins: Whether it joins a job that is at work.
        crew_dir: Folder through which the workers of the attempt find each other.
        host: Address that other workers reach this one at.
        silence_s: How long a worker that says nothing counts as alive.
        memory: `normal` or `low`.
        lr_scale: Factor of the script's learning rate.
        schedule_batch: The global batch that one tick of the schedule stands for; None when it is
            the one in force.
        replica_workers: Workers that hold one replica of the model together, and see the same
            samples.
    """

    events: Path
    rank: int
    world_size: int
    control: Path | None
    checkpoint_dir: Path | None
    checkpoint_interval_s: float
    global_batch: int | None
    micro_batch: int | None
    loader_workers: int | None
    seed: int
    probe_steps: int | None
    worker: int = 0
    joins: bool = False
    crew_dir: Path | None = None
    host: str = "127.0.0.1"
    silence_s: float = 30.0
    memory: str = "normal"
    lr_scale: float = 1.0
    schedule_batch: int | None = None
    replica_workers: int = 1


def read_environment(environ: Mapping[str, str] = os.environ) -> WorkerEnv | None:
    """The worker's orders, or None when planner did not start this process.

    Raises:
        SdkError: A variable holds something else than the number it should.
    """
    events = environ.get("PLANNER_EVENTS")
    if not events:
        return None
    control = environ.get("PLANNER_CONTROL")
    checkpoints = environ.get("PLANNER_CHECKPOINT_DIR")
    crew_dir = environ.get("PLANNER_CREW_DIR")
    rank = _whole(environ, "RANK", minimum=0) or 0
    number = _whole(environ, "PLANNER_WORKER", minimum=0)
    return WorkerEnv(
        events=Path(events),
        rank=rank,
        world_size=_whole(environ, "WORLD_SIZE") or 1,
        control=Path(control) if control else None,
        checkpoint_dir=Path(checkpoints) if checkpoints else None,
        checkpoint_interval_s=_above_zero(environ, "PLANNER_CHECKPOINT_INTERVAL_S", default=600.0),
        global_batch=_whole(environ, "PLANNER_GLOBAL_BATCH"),
        micro_batch=_whole(environ, "PLANNER_MICRO_BATCH"),
        loader_workers=_whole(environ, "PLANNER_LOADER_WORKERS", minimum=0),
        seed=_whole(environ, "PLANNER_SEED", minimum=0) or 0,
        probe_steps=_whole(environ, "PLANNER_PROBE_STEPS"),
        worker=rank if number is None else number,
        joins=environ.get("PLANNER_JOIN") == "1",
        crew_dir=Path(crew_dir) if crew_dir else None,
        host=environ.get("PLANNER_HOST") or "127.0.0.1",
        silence_s=_above_zero(environ, "PLANNER_CREW_SILENCE_S", default=30.0),
        memory=environ.get("PLANNER_MEMORY") or "normal",
        lr_scale=_above_zero(environ, "PLANNER_LR_SCALE", default=1.0),
        schedule_batch=_whole(environ, "PLANNER_SCHEDULE_BATCH"),
        replica_workers=(_whole(environ, "PLANNER_TENSOR_PARALLEL") or 1)
        * (_whole(environ, "PLANNER_PIPELINE_PARALLEL") or 1),
    )


def _whole(environ: Mapping[str, str], name: str, *, minimum: int = 1) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise SdkError(f"{name}={text!r} is not a whole number") from None
    if value < minimum:
        raise SdkError(f"{name}={value} must be {minimum} or more")
    return value


def _above_zero(environ: Mapping[str, str], name: str, *, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SdkError(f"{name}={text!r} is not a number") from None
    if not value > 0:
        raise SdkError(f"{name}={text} must be above zero")
    return value
