"""What a simulated training job was launched with, as a script reads it from its environment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import LaunchSpec
from runners.fakelaw import FakeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was launched: everything that does not change while it runs."""

    key: str
    run_id: str
    attempt: int
    attempt_dir: str
    workers: int
    micro_batch: int
    accumulation: int
    loaders: int
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
    def of(cls, spec: LaunchSpec, settings: FakeSettings, now_t: float) -> Order:
        """From a launch, as a training script reads its environment and arguments."""
        env, workers = spec.env, spec.resources.workers
        global_batch = int(env.get("PLANNER_GLOBAL_BATCH", settings.law.global_batch))
        share = max(1, math.ceil(global_batch / workers))
        micro_batch = min(share, int(env.get("PLANNER_MICRO_BATCH", share)))
        probe_steps = env.get("PLANNER_PROBE_STEPS")
        return cls(
            key=spec.idempotency_key,
            run_id=spec.run_id,
            attempt=spec.attempt,
            attempt_dir=spec.attempt_dir,
            workers=workers,
            micro_batch=micro_batch,
            accumulation=math.ceil(share / micro_batch),
            loaders=int(env.get("PLANNER_LOADER_WORKERS", 0)),
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
