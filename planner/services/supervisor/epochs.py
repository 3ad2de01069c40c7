"""Steps and epochs of a run whose steps are not always of one size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from planner.services.supervisor.sayings import said_whole


class Epochs:
    """Where a run stands in its epochs, and how many steps are left.

    Attributes:
        samples: Of the data set; 0 when unknown.
        global_batch: Samples of a step; 0 when unknown.
        steps: Of one epoch; None when unknown.
        mixed: Whether steps of several sizes were done: only samples tell then what is left.
    """

    def __init__(self, *, samples: int, global_batch: int, steps: int | None) -> None:
        self.samples = samples
        self.global_batch = global_batch
        self.steps = steps
        self.mixed = False
        self._drops = False
        self._epoch, self._began = 0, 0  # the last epoch whose start is known, and samples until it

    def attached(self, event: Mapping[str, Any]) -> bool:
        """Take in `attached`; whether it told how many steps an epoch has."""
        self.samples = said_whole(event.get("samples"), self.samples)
        batch = said_whole(event.get("global_batch"), self.global_batch)
        steps = said_whole(event.get("steps_per_epoch"), 0)
        if batch <= 0 or steps <= 0:
            return False
        self._say(batch, steps)
        return True

    def adjusted(self, event: Mapping[str, Any]) -> bool:
        """Take in `adjusted`; whether an epoch has other steps from there on."""
        position = said_whole(event.get("position"), -1)
        batch = said_whole(event.get("global_batch"), 0)
        steps = said_whole(event.get("steps_per_epoch"), 0)
        if position < 0 or batch <= 0 or steps <= 0:
            return False
        self.stand(
            said_whole(event.get("epoch"), 0), said_whole(event.get("samples"), 0) - position
        )
        if (batch, steps) == (self.global_batch, self.steps):
            return False
        self._say(batch, steps)
        return True

    def _say(self, global_batch: int, steps: int) -> None:
        self.global_batch, self.steps = global_batch, steps
        if self.samples % global_batch:  # else none is left over that could be left out
            self._drops = steps * global_batch <= self.samples

    def turn(self, global_batch: int) -> None:
        """Steps of another size from now on; how many there are is not told."""
        self.global_batch = global_batch
        if self.samples > 0:
            self.mixed = True
            self.steps = self._whole(self.samples)

    def stand(self, epoch: int, samples: int) -> None:
        """That epoch began after so many samples."""
        self._epoch, self._began = epoch, max(0, samples)

    def left(self, epochs: float, epoch: int, samples: int) -> int:
        """Steps until the end of all epochs."""
        epoch, position = self.reach(epoch, samples)
        left = math.ceil((epochs - epoch - 1) * (self.steps or 0))
        return max(0, left + self._whole(self.samples - position))

    def left_in_epoch(self, epoch: int, samples: int) -> int:
        """Steps until the end of the epoch; 0 right after its last one."""
        _, position = self.reach(epoch, samples)
        return self._whole(self.samples - position) if position else 0

    def reach(self, epoch: int, samples: int) -> tuple[int, int]:
        """The run came there: the epoch and the samples since its start.

        Of an epoch whose start nobody told it is taken that those before it were like this one.
        """
        if epoch > self._epoch:
            began = self._began + self.before(epoch - self._epoch, 0)
            self.stand(epoch, min(samples, began))
        return self._epoch, max(0, samples - self._began)

    def before(self, epochs: int, position: int) -> int:
        """Samples of so many whole epochs, and of the next one until there."""
        every = (self.steps or 0) * self.global_batch if self._drops else self.samples
        return epochs * every + position

    def _whole(self, samples: int) -> int:
        """Steps that so many samples of an epoch's end are; a rest too small for one is none."""
        steps = max(0, samples) / self.global_batch if self.global_batch else 0.0
        return math.floor(steps) if self._drops else math.ceil(steps)
