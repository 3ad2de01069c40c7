"""Times of steps and epochs and the script's own numbers, gathered and said twice a second."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Any

from planner.sdk.courier import Courier
from planner.sdk.state import Position

_PERIOD_S = 0.5


class Stopwatch:
    """What the leader tells about time; without a courier (the others) it only listens.

    Attributes:
        stepped_s: When the last step ended, on the performance counter.
    """

    def __init__(self, courier: Courier | None) -> None:
        self._courier = courier
        self._times_s: list[float] = []
        self._waits_s: list[float] = []
        self._metrics: dict[str, Any] = {}
        self._noted_at = (0, 0)
        self._recent_s: deque[float] = deque(maxlen=32)
        self._last_s = self._said_s = self.stepped_s = time.perf_counter()
        self._epoch_began_s = self._batches_ended_s = self._last_s

    def report_to(self, courier: Courier | None) -> None:
        """Say everything to `courier` from now on."""
        self._courier = courier

    def epoch_begins(self) -> None:
        """An epoch starts now."""
        self._epoch_began_s = self._batches_ended_s = time.perf_counter()

    def steps_begin(self) -> None:
        """The next step starts now; whatever was done since the last one is not part of it."""
        self._last_s = time.perf_counter()

    def step_done(self, wait_s: float, at: Position) -> None:
        """A step ended, `wait_s` of it spent waiting for data."""
        now_s = time.perf_counter()
        self._times_s.append(now_s - self._last_s)
        self._waits_s.append(wait_s)
        self._recent_s.append(now_s - self._last_s)
        self._last_s = self.stepped_s = now_s
        if now_s - self._said_s >= _PERIOD_S:
            self.say(at)

    @property
    def usual_step_s(self) -> float | None:
        """Median of the last steps; None before the first."""
        return median(self._recent_s) if self._recent_s else None

    def batches_end(self, at: Position) -> None:
        """The epoch's last batch is done; what follows is its tail."""
        self._batches_ended_s = time.perf_counter()
        self.say(at)

    def epoch_ends(self, epoch: int, step: int) -> None:
        """The script is back for the next epoch."""
        if self._courier is not None:
            now_s = time.perf_counter()
            self._courier.say(
                "epoch",
                at_once=True,
                epoch=epoch,
                step=step,
                duration_s=round(now_s - self._epoch_began_s, 6),
                tail_s=round(now_s - self._batches_ended_s, 6),
            )

    def note(self, values: dict[str, Any], *, step: int, epoch: int, often: bool) -> None:
        """The script's own numbers. Of those said `often`, in the loop over batches, the latest."""
        if often:
            self._metrics |= values
            self._noted_at = (step, epoch)
        elif self._courier is not None:
            self._courier.say("metric", at_once=True, step=step, epoch=epoch, values=values)

    def say(self, at: Position) -> None:
        """Say what was gathered, up to where training stands."""
        times_s, waits_s, metrics = self._times_s, self._waits_s, self._metrics
        self._times_s, self._waits_s, self._metrics = [], [], {}
        self._said_s = time.perf_counter()
        if self._courier is None:
            return
        if times_s:
            self._courier.say(
                "steps",
                epoch=at.epoch,
                step=at.step,
                samples=at.samples,
                step_time_s=[round(t, 6) for t in times_s],
                wait_s=[round(t, 6) for t in waits_s],
            )
        if metrics:
            step, epoch = self._noted_at
            self._courier.say("metric", step=step, epoch=epoch, values=metrics)
