"""How far a run is and how long it still takes, from what its workers say.

The remaining time is a log-normal around

    steps left x time of a step + epochs left x tail of an epoch + checkpoints left x their stall

where only the last checkpoint is waited for: others may be written while training goes on.
The time of a step combines what the plan expected with what was measured, weighted by precision;
the measured part looks at the recent past more than at the distant one, as rates drift.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from planner.core.adjust import InForce
from planner.core.distribution import Distribution
from planner.core.plan import Plan
from planner.services.supervisor.epochs import Epochs
from planner.services.supervisor.planned import (
    DRIFT_SIGMA,
    planned_epoch_steps,
    planned_step_s,
    planned_steps,
)
from planner.services.supervisor.rules import Remaining
from planner.services.supervisor.sayings import (
    said_duration_s,
    said_number,
    said_numbers,
    said_whole,
)

_CHUNKS = 64
_HALF_LIFE_CHUNKS = 12.0
_FIRST_SIGMA = 0.15
"""Relative spread of a rate known from a single stretch of steps."""


class Progress:
    """Follows one run over all its attempts. Fed with the events of the training-script contract.

    Attributes:
        step: Optimiser steps in the weights.
        steps_seen: Steps that the current attempt did.
        attached: Whether the current attempt's job has said anything.
        times_s: Where the current attempt's time went, by name.
        finished: Whether the job said that all is done.
        rate_before: Samples per second at the end of the attempt before.
        first_step_t: Unix time at which the current attempt's first step was done; None before it.
        stall_s: From the last step of the attempt before to the first one of this; None before it.
        start_s: From the current attempt's launch to its first step; 0 until known.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._planned = planned_step_s(plan)
        self._interval_s = plan.option.knobs.checkpoint_interval_s
        self.epochs = float(plan.work.epochs)
        self.steps_total = planned_steps(plan)
        self._epochs = Epochs(
            samples=plan.work.samples,
            global_batch=plan.option.knobs.global_batch,
            steps=planned_epoch_steps(plan),
        )
        self.peak_memory_bytes: int | None = None
        self._chunks: deque[tuple[int, float, float]] = deque(maxlen=_CHUNKS)
        self._open = (0, 0.0, 0.0)
        self._last_step_t: float | None = None
        self.first_step_t: float | None = None
        self.stall_s: float | None = None
        self._chunk_s = min(5.0, max(0.2, 0.02 * plan.option.run_s.p50))
        self._tails: list[float] = []
        self._checkpoints: list[float] = []
        self._stalls: list[float] = []
        self._slowest_step_s = 0.0
        self.new_attempt()

    def expect(self, now: InForce) -> None:
        """What is in force from now on. Rates of before a change do not predict those after it."""
        knobs, option = now.knobs, self._plan.option
        same = (now.resources, knobs.micro_batch, knobs.global_batch, now.memory) == (
            option.resources,
            option.knobs.micro_batch,
            option.knobs.global_batch,
            "normal",
        )
        self._planned = planned_step_s(self._plan) if same else None
        self._interval_s = knobs.checkpoint_interval_s
        self._recount(knobs.global_batch)
        self._forget_rates()

    def _recount(self, global_batch: int) -> None:
        """Another global batch: what is left is counted in its steps."""
        if global_batch <= 0 or global_batch == self._epochs.global_batch:
            return
        self._epochs.turn(global_batch)
        if self._epochs.mixed:
            self._count_by_samples()

    def _count_by_samples(self) -> None:
        self._epochs.mixed = True
        self.steps_total = self.step + self._epochs.left(self.epochs, self.epoch, self.samples)

    def _forget_rates(self) -> None:
        self._chunks.clear()
        self._open = (0, 0.0, 0.0)

    def new_attempt(self, *, step: int = 0, samples: int = 0, epoch: int = 0) -> None:
        """A new launch: its rates are measured anew, its steps counted from its start.

        Args:
            step: Optimiser steps in the checkpoint that it goes on from, until it says so itself.
            samples: Samples in it.
            epoch: Epoch it stands in, from 0.
        """
        self.step, self.samples, self.epoch = step, samples, epoch
        self._epochs.stand(epoch, min(samples, self._epochs.before(epoch, 0)))
        self.rate_before = self.samples_per_s
        self._before_t, self.first_step_t, self.stall_s = self._last_step_t, None, None
        self.steps_seen = 0
        self.attached = False
        self.finished = False
        self.start_s = 0.0
        self._tail_open = False
        self.times_s: dict[str, float] = {}
        self._forget_rates()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in one event of the leader; keys that are missing or odd change nothing."""
        kind = event.get("type")
        if kind == "attached":
            self._attached(event)
        elif kind == "steps":
            self._steps(event)
        elif kind == "epoch":
            self._epoch(event)
        elif kind == "checkpoint":
            self._checkpoint(event)
        elif kind == "adjusted":
            self._adjusted(event)
        elif kind == "finished":
            self.finished = True
            self.step = said_whole(event.get("step"), self.step)
            self.samples = said_whole(event.get("samples"), self.samples)

    def take_memory(self, event: Mapping[str, Any]) -> None:
        """Take in a `memory` event of any rank."""
        peak = event.get("peak_device_bytes") or event.get("peak_rss_bytes")
        if isinstance(peak, int):
            self.peak_memory_bytes = max(peak, self.peak_memory_bytes or 0)

    def _attached(self, event: Mapping[str, Any]) -> None:
        self.attached = True
        self.epochs = said_number(event.get("epochs"), self.epochs)
        self._tail_open = False
        epochs = self._epochs
        if epochs.attached(event):
            self.steps_total = math.ceil((epochs.steps or 0) * self.epochs)
        resumed = event.get("resumed")
        resumed = resumed if isinstance(resumed, Mapping) else {}
        known, self.step = self.step, said_whole(resumed.get("step"), 0)
        self.epoch = said_whole(resumed.get("epoch"), 0)
        position = said_whole(resumed.get("position"), 0)
        samples = epochs.before(self.epoch, position) if known != self.step else self.samples
        epochs.stand(self.epoch, samples - position)
        said = epochs.mixed or said_whole(event.get("samples"), 0)
        if not (epochs.steps and epochs.global_batch and epochs.samples and said):
            return
        usual = self.epoch * epochs.steps + math.ceil(position / epochs.global_batch)
        if epochs.mixed or self.step != usual:
            # Steps of another size are in the count: only samples tell what is left.
            self.samples = samples
            self._count_by_samples()

    def _adjusted(self, event: Mapping[str, Any]) -> None:
        """Workers and batches that change may change how many steps an epoch has."""
        self._reach(event)
        if self._epochs.adjusted(event):
            self._count_by_samples()

    def _reach(self, event: Mapping[str, Any]) -> None:
        """A worker that leaves may keep its last steps to itself, but others tell where it was."""
        step = said_whole(event.get("step"), self.step)
        if step > self.step:
            self.step = step
            self.samples = said_whole(event.get("samples"), self.samples)
            self.epoch = said_whole(event.get("epoch"), self.epoch)

    def _steps(self, event: Mapping[str, Any]) -> None:
        self.attached = True
        times, waits = said_numbers(event.get("step_time_s")), said_numbers(event.get("wait_s"))
        step = said_whole(event.get("step"), self.step + len(times))
        if step >= self.step:
            # Never back: a step that is done again after a worker was lost counts once.
            self.step = step
            self.samples = said_whole(event.get("samples"), self.samples)
            self.epoch = said_whole(event.get("epoch"), self.epoch)
            self._epochs.reach(self.epoch, self.samples)
        self._note_gap(event.get("t"), times)
        self.steps_seen += max(len(times), 1)
        self._tail_open = self._steps_left_in_epoch() == 0
        if not times:
            return
        total, wait = sum(times), min(sum(waits), sum(times))
        self._slowest_step_s = max(self._slowest_step_s, *times)
        self._spent("loading", wait)
        self._spent("steps", total - wait)
        if self.steps_seen == len(times) > 1:
            # The first step pays for warming up, and would be taken for the pace of all others.
            times = times[1:]
        n, chunk_s, chunk_wait_s = self._open
        share = wait * len(times) / max(1, len(said_numbers(event.get("step_time_s"))))
        self._open = (n + len(times), chunk_s + sum(times), chunk_wait_s + share)
        if self._open[1] >= self._chunk_s:
            self._chunks.append(self._open)
            self._open = (0, 0.0, 0.0)

    def _note_gap(self, t: object, times: list[float]) -> None:
        """The time from the last step of the attempt before to the first one of this."""
        at_t = float(t) if isinstance(t, int | float) and math.isfinite(t) else None
        if self.steps_seen == 0 and at_t is not None:
            self.first_step_t = at_t - sum(times[1:])
            if self._before_t is not None:
                self.stall_s = max(0.0, self.first_step_t - self._before_t)
        self._last_step_t = at_t

    def _epoch(self, event: Mapping[str, Any]) -> None:
        self._tail_open = False
        if said_whole(event.get("step"), -1) == self.step:
            self._epochs.stand(said_whole(event.get("epoch"), self.epoch) + 1, self.samples)
        tail_s = said_duration_s(event.get("tail_s"))
        if tail_s is not None:
            self._tails.append(tail_s)
            self._spent("evaluation", tail_s)

    def _checkpoint(self, event: Mapping[str, Any]) -> None:
        duration_s = said_duration_s(event.get("duration_s"))
        self._reach(event)
        stall_s = said_duration_s(event.get("stall_s"))
        stall_s = duration_s if stall_s is None else stall_s
        if duration_s is not None:
            self._checkpoints.append(duration_s)
        if stall_s is not None:
            self._stalls.append(stall_s)
            self._spent("checkpoints", stall_s)

    def _spent(self, name: str, duration_s: float) -> None:
        self.times_s[name] = self.times_s.get(name, 0.0) + duration_s

    @property
    def fraction(self) -> float:
        """Part of all steps that is done, 0 to 1; 0 when their number is unknown."""
        if self.finished:
            return 1.0
        return min(1.0, self.step / self.steps_total) if self.steps_total else 0.0

    @property
    def global_batch(self) -> int:
        """Samples of one optimiser step; 0 when unknown."""
        return self._epochs.global_batch

    @property
    def samples_per_s(self) -> float | None:
        """Recent throughput over all workers; None before it is known."""
        step_s = self._recent_step_s()
        return self.global_batch / step_s if step_s and self.global_batch else None

    @property
    def loader_wait(self) -> float | None:
        """Recent part of a step that waits for data, 0 to 1."""
        chunks = self._recent()
        total = sum(seconds for _, seconds, _ in chunks)
        return sum(wait for _, _, wait in chunks) / total if total > 0 else None

    @property
    def complete(self) -> bool:
        """Whether all training is done, as far as it is known how much there is."""
        return self.fraction >= 1.0

    @property
    def longest_tail_s(self) -> float:
        """Longest silence after an epoch so far."""
        return max(self._tails, default=0.0)

    @property
    def expected_tail_s(self) -> float:
        """A high estimate of an epoch's tail: the longest one seen, before that the plan's."""
        return max(self._tails, default=self._tail_s())

    @property
    def in_tail(self) -> bool:
        """Whether the steps of an epoch are done and what follows them (evaluation) is not."""
        if self.finished or not self.steps_seen:
            return False
        return self._tail_open or bool(self.steps_total and self.step >= self.steps_total)

    def tail_within(self, duration_s: float) -> bool:
        """Whether a tail goes on or begins within this time; False while nothing tells."""
        left, step_s = self._steps_left_in_epoch(), self._recent_step_s()
        if left is None or step_s is None or self.finished:
            return False
        return self.in_tail or (left or self._epochs.steps or 0) * step_s <= duration_s

    def _steps_left_in_epoch(self) -> int | None:
        """Steps until the next tail; 0 right after an epoch's last one. None when unknown."""
        if not self._epochs.steps:
            return None
        if self._epochs.mixed:
            return self._epochs.left_in_epoch(self.epoch, self.samples)
        return -self.step % self._epochs.steps

    @property
    def checkpoint_s(self) -> float | None:
        """Usual time until a checkpoint is on the disk; None before one was seen."""
        return _recent_mean(self._checkpoints)

    @property
    def checkpoint_stall_s(self) -> float | None:
        """Usual time that training stands still for a checkpoint; None before one was seen."""
        return _recent_mean(self._stalls)

    @property
    def slowest_step_s(self) -> float:
        """Longest step so far."""
        return self._slowest_step_s

    def stop_s(self, unknown_checkpoint_s: float) -> float:
        """A high estimate of the time from a request to stop until all workers have left."""
        checkpoint = max(self._checkpoints, default=unknown_checkpoint_s)
        return 1.5 * checkpoint + self._slowest_step_s

    def remaining(self) -> Remaining | None:
        """What is left to do; None before steps were seen or while their number is unknown."""
        if not self.steps_total or not (self._chunks or self._open[0]):
            return None
        step_s, sigma = self._step_time()
        steps_left = max(0, self.steps_total - self.step)
        tails_left = math.ceil(self.epochs * steps_left / self.steps_total)
        tails_s = self._tail_s() * max(tails_left, 0 if self.finished else 1)
        run_s = steps_left * step_s + tails_s
        if self._checkpoints and self._stalls:
            stall_s = sum(self._stalls) / len(self._stalls)
            last_s = sum(self._checkpoints) / len(self._checkpoints)
            run_s += stall_s * run_s / self._interval_s + last_s
        return Remaining(run_s=Distribution.lognormal(run_s, sigma, "probe"), steps=steps_left)

    def _tail_s(self) -> float:
        """Time at the end of one epoch: measured, or what the plan has beyond its steps."""
        if self._tails:
            return sum(self._tails) / len(self._tails)
        planned = self._planned
        if planned is None or not self.steps_total or not self.epochs:
            return 0.0
        beyond = self._plan.option.run_s.p50 - self.steps_total * planned[0]
        return max(0.0, beyond - self.start_s) / self.epochs

    def _recent(self) -> list[tuple[int, float, float]]:
        last = list(self._chunks)[-3:]
        return [*last, self._open] if self._open[0] and len(last) < 3 else last

    def _recent_step_s(self) -> float | None:
        chunks = self._recent()
        steps = sum(n for n, _, _ in chunks)
        return sum(seconds for _, seconds, _ in chunks) / steps if steps else None

    def _measured(self) -> tuple[float, float]:
        """Weighted mean of the step time, and its relative spread."""
        chunks = list(self._chunks) or [self._open]
        age = range(len(chunks) - 1, -1, -1)
        weights = [0.5 ** (a / _HALF_LIFE_CHUNKS) for a in age]
        values = [seconds / n for n, seconds, _ in chunks]
        total = sum(weights)
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
        if len(chunks) < 3:
            return mean, _FIRST_SIGMA
        spread = sum(w * (v / mean - 1) ** 2 for w, v in zip(weights, values, strict=True)) / total
        effective = total**2 / sum(w**2 for w in weights)
        return mean, math.sqrt(spread / max(1.0, effective - 1) + DRIFT_SIGMA**2)

    def _step_time(self) -> tuple[float, float]:
        """Expected time of the steps to come, and its relative spread."""
        mean, sigma = self._measured()
        planned = self._planned
        if planned is None or mean <= 0:
            return mean, sigma
        prior, prior_sigma = planned
        weight, prior_weight = sigma**-2, prior_sigma**-2
        both = weight + prior_weight
        log_mean = (weight * math.log(mean) + prior_weight * math.log(prior)) / both
        return math.exp(log_mean), max(DRIFT_SIGMA, both**-0.5)


def _recent_mean(values: list[float]) -> float | None:
    last = values[-5:]
    return sum(last) / len(last) if last else None
