"""What a simulated training job was launched with, as a script reads it from its environment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import LaunchSpec
from runners.fakelaw import FakeSettings
from runners.joining import wanted_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was launched: everything that does not change while it runs.

    Attributes:
        attempt_dir: Folder of the launch.
        beside: Folder of the launch whose job these workers join; None for a job of their own.
        world_size: Workers of the job, those of this launch included.
        micro_batch: Most samples of one forward pass of one worker.
        joinable: Whether other workers can join.
    """

    key: str
    run_id: str
    attempt: int
    attempt_dir: str
    beside: str | None
    pool: str
    first_worker: int
    workers: int
    world_size: int
    joinable: bool
    micro_batch: int
    loaders: int
    memory: str
    lr_scale: float
    global_batch: int
    epochs: int
    probe_steps: int | None
    control: str | None
    checkpoint_dir: str
    settings: Mapping[str, Any]
    stop_grace_s: float
    checkpoint_interval_s: float
    launched_t: float

    @classmethod
    def of(
        cls, spec: LaunchSpec, settings: FakeSettings, now_t: float, *, beside: str | None = None
    ) -> Order:
        """From a launch, as a training script reads its environment and arguments.

        Raises:
            RunnerError: It joins a job, and does not say how many workers that is to have then.
        """
        env, workers = spec.env, spec.resources.workers
        global_batch = int(env.get("PLANNER_GLOBAL_BATCH", settings.law.global_batch))
        share = max(1, math.ceil(global_batch / workers))
        probe_steps = env.get("PLANNER_PROBE_STEPS")
        return cls(
            key=spec.idempotency_key,
            run_id=spec.run_id,
            attempt=spec.attempt,
            attempt_dir=spec.attempt_dir,
            beside=beside,
            pool=spec.place.pool,
            first_worker=spec.first_worker,
            workers=workers,
            world_size=workers if beside is None else wanted_size(spec),
            joinable=spec.crew_dir is not None,
            micro_batch=int(env.get("PLANNER_MICRO_BATCH", share)),
            loaders=int(env.get("PLANNER_LOADER_WORKERS", 0)),
            memory=env.get("PLANNER_MEMORY", "normal"),
            lr_scale=float(env.get("PLANNER_LR_SCALE", 1.0)),
            global_batch=global_batch,
            epochs=_asked_epochs(spec.argv) or settings.law.epochs,
            probe_steps=int(probe_steps) if probe_steps else None,
            control=env.get("PLANNER_CONTROL"),
            checkpoint_dir=env.get("PLANNER_CHECKPOINT_DIR", f"{spec.attempt_dir}/checkpoints"),
            settings=dict(spec.place.settings),
            stop_grace_s=spec.stop_grace_s,
            checkpoint_interval_s=float(env.get("PLANNER_CHECKPOINT_INTERVAL_S", 600.0)),
            launched_t=now_t,
        )


def _asked_epochs(argv: tuple[str, ...]) -> int | None:
    text = "\0".join(argv)
    match = re.search(r"(?:^|\0)--epochs[=\0](\d+)(?:\0|$)", text)
    return int(match[1]) if match else None
