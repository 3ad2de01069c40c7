"""Decide how a script's loader is used: in planner's order, or as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from planner.sdk.accumulate import check_possible, is_ddp
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import SdkError
from planner.sdk.feed import Feed, OpaqueFeed, PlannedFeed, Shape, shuffles
from planner.sdk.state import Parts


def make_feed(loader: Iterable[Any], env: WorkerEnv, parts: Parts, seed: int) -> Feed:
    """The feed for `loader`, shaped as planner asked.

    Raises:
        SdkError: The shape cannot be had: too few samples, or accumulation where there is none.
    """
    shuffle = shuffles(loader)
    if shuffle is None:
        return OpaqueFeed(loader, workers=env.world_size)
    source: Any = loader
    workers = env.world_size
    global_batch = env.global_batch or source.batch_size * workers
    if global_batch < workers:
        raise SdkError(f"a global batch of {global_batch} is too small for {workers} workers")
    micro_batch = env.micro_batch or -(-global_batch // workers)
    count = -(-global_batch // (micro_batch * workers))
    if count > 1:
        check_possible(
            model=parts.model,
            optimizer=parts.optimizer,
            scaler=parts.scaler,
            workers=workers,
            count=count,
        )
    can_split = parts.optimizer is not None and parts.scaler is None
    shape = Shape(
        rank=env.rank,
        workers=workers,
        global_batch=global_batch,
        micro_batch=micro_batch,
        split=can_split and (workers == 1 or is_ddp(parts.model)),
        drop_last=source.drop_last,
    )
    return PlannedFeed(
        source, shape=shape, shuffle=shuffle, seed=seed, loader_workers=env.loader_workers
    )
