"""The knobs of a job at work, and what follows from them for its feed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.sdk.environment import WorkerEnv
from planner.sdk.levers import Knobs, turned
from planner.sdk.loading import LoaderSettings
from planner.sdk.plannedfeed import PlannedFeed, Shape


class InForce:
    """What is in force.

    Attributes:
        knobs: The knobs.
        normal_micro_batch: The micro-batch to go back to when memory becomes normal again.
    """

    def __init__(self, env: WorkerEnv, feed: PlannedFeed) -> None:
        self.knobs = Knobs(
            global_batch=feed.global_batch,
            micro_batch=feed.micro_batch,
            loader_workers=feed.loader_workers,
            memory=env.memory,
            lr_scale=env.lr_scale,
        )
        self.normal_micro_batch = feed.micro_batch
        self._feed = feed

    def target(self, adjust: Mapping[str, Any]) -> Knobs:
        """The knobs once that is in force. Raises `Refused`."""
        return turned(self.knobs, adjust, self.normal_micro_batch)

    def shape(self, knobs: Knobs, rank: int, workers: int) -> Shape:
        """How a step is shared out under these knobs."""
        now = self._feed.shape
        return Shape(
            rank=rank,
            workers=workers,
            global_batch=knobs.global_batch,
            micro_batch=knobs.micro_batch,
            split=now.split,
            drop_last=now.drop_last,
        )

    def loader_settings(self, knobs: Knobs) -> LoaderSettings:
        """How batches are loaded under these knobs."""
        return LoaderSettings(knobs.loader_workers, lean=knobs.memory == "low")
