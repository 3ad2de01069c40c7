"""A worker introduces itself: the event `attached`."""

from __future__ import annotations

import os

from planner.sdk.errors import tell
from planner.sdk.feed import OpaqueFeed
from planner.sdk.gear import Gear
from planner.sdk.memory import device_description
from planner.sdk.plannedfeed import PlannedFeed


def announce(gear: Gear, feed: PlannedFeed | OpaqueFeed) -> None:
    """Say who this worker is, what it is about to do, and what can be changed about it."""
    env = gear.env
    name, memory_bytes = device_description(gear.device)
    gear.courier.say(
        "attached",
        at_once=True,
        tier=1,
        rank=env.rank,
        worker=env.worker,
        joins=env.joins,
        world_size=env.world_size,
        pid=os.getpid(),
        device=name,
        device_memory_bytes=memory_bytes,
        samples=feed.samples,
        epochs=gear.epochs,
        global_batch=feed.global_batch,
        micro_batch=feed.micro_batch,
        accumulation=feed.accumulation,
        loader_workers=feed.loader_workers,
        steps_per_epoch=feed.steps_per_epoch,
        resumed=gear.keeper.resumed,
        levers=_levers(gear, feed),
    )
    if not feed.planned and gear.workers.leads:
        tell("this loader's order is its own: it is used as it is, resuming skips batches")


def _levers(gear: Gear, feed: PlannedFeed | OpaqueFeed) -> list[str]:
    """What can be changed in flight."""
    if not feed.planned or gear.probing:
        return []
    crew = ["workers"] if gear.crew is not None and gear.crew.can_change else []
    return [*crew, "micro_batch", "loader_workers", "memory", "global_batch"]
