"""What planner told this worker, from its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.sdk.errors import SdkError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnv:
    """One worker's orders. None where planner said nothing."""

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
    return WorkerEnv(
        events=Path(events),
        rank=_whole(environ, "RANK", minimum=0) or 0,
        world_size=_whole(environ, "WORLD_SIZE") or 1,
        control=Path(control) if control else None,
        checkpoint_dir=Path(checkpoints) if checkpoints else None,
        checkpoint_interval_s=_seconds(environ, "PLANNER_CHECKPOINT_INTERVAL_S", default=600.0),
        global_batch=_whole(environ, "PLANNER_GLOBAL_BATCH"),
        micro_batch=_whole(environ, "PLANNER_MICRO_BATCH"),
        loader_workers=_whole(environ, "PLANNER_LOADER_WORKERS", minimum=0),
        seed=_whole(environ, "PLANNER_SEED", minimum=0) or 0,
        probe_steps=_whole(environ, "PLANNER_PROBE_STEPS"),
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


def _seconds(environ: Mapping[str, str], name: str, *, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SdkError(f"{name}={text!r} is not a number of seconds") from None
    if not value > 0:
        raise SdkError(f"{name}={text} must be above zero")
    return value
