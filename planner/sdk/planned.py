"""Decide how a script's loader is used: in planner's order, or as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from planner.sdk.accumulate import check_possible, is_ddp
from planner.sdk.distributed import Workers
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import SdkError
from planner.sdk.feed import OpaqueFeed, shuffles
from planner.sdk.loading import LoaderSettings
from planner.sdk.plannedfeed import PlannedFeed, Shape
from planner.sdk.state import Parts


def make_feed(
    loader: Iterable[Any],
    env: WorkerEnv,
    parts: Parts,
    workers: Workers,
    seed: int,
    *,
    crew: bool,
) -> PlannedFeed | OpaqueFeed:
    """The feed for `loader`, shaped as planner asked.

    Args:
        loader: The script's.
        env: Batch sizes and loader workers that are wanted.
        parts: The script's objects.
        workers: Who shares the steps.
        seed: Of the order.
        crew: Whether planner joins the workers, or could.

    Raises:
        SdkError: The shape cannot be had: too few samples, or accumulation where there is none.
    """
    shuffle = shuffles(loader)
    if shuffle is None:
        if env.joins or (crew and workers.count > 1):
            raise SdkError(
                "this loader's order is its own, so planner cannot share it out over workers: use "
                "a plain DataLoader, or join the workers in the script"
            )
        return OpaqueFeed(loader, workers=workers.count)
    source: Any = loader
    count = workers.count
    first = env.world_size if crew else count  # one of them may be lost already
    global_batch = env.global_batch or source.batch_size * first
    if global_batch < count:
        raise SdkError(f"a global batch of {global_batch} is too small for {count} workers")
    shape = Shape(
        rank=workers.rank,
        workers=count,
        global_batch=global_batch,
        micro_batch=env.micro_batch or -(-global_batch // count),
        split=_can_split(parts) and (count == 1 or crew or is_ddp(parts.model)),
        drop_last=source.drop_last,
    )
    require_possible(shape, parts, crew=crew)
    own = source.num_workers if env.loader_workers is None else env.loader_workers
    settings = LoaderSettings(own, lean=env.memory == "low")
    return PlannedFeed(source, shape=shape, shuffle=shuffle, seed=seed, settings=settings)


def require_possible(shape: Shape, parts: Parts, *, crew: bool) -> None:
    """Refuse a shape whose gradients cannot be put together. Raises `SdkError`."""
    if crew and shape.workers > 1 and _takes_sparse_only(parts.optimizer):
        raise SdkError(
            "gradients are dense once those of several workers are added up, and SparseAdam takes "
            "sparse ones only: use another optimizer, or one worker"
        )
    micros = -(-shape.global_batch // (shape.micro_batch * shape.workers))
    if micros > 1:
        check_possible(
            model=parts.model,
            optimizer=parts.optimizer,
            scaler=parts.scaler,
            workers=1 if crew else shape.workers,
            count=micros,
        )


def _takes_sparse_only(optimizer: Any) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(optimizer, torch.optim.SparseAdam)


def _can_split(parts: Parts) -> bool:
    return parts.optimizer is not None and parts.scaler is None
