"""What the workers of a probe have said so far, gathered from their event files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from planner.core.redact import redact
from planner.store.files import NdjsonTail
from runners.base import Measurement

_FULL = 0.85
"""A machine with so much of its cores in use has none to spare."""


@dataclass(slots=True)
class Outside:
    """What was measured of the workers from outside: the peak of any of them, and means."""

    peak_bytes: int | None = None
    _gpu: list[float] = field(default_factory=list)
    _others: list[float] = field(default_factory=list)

    def add_machine(self, *, busy_cores: float, cores: int, own_cores: float) -> None:
        """Take how many cores of this machine are busy, and how many of those are the probe's.

        What others use takes nothing from the probe while cores are free.
        """
        full = busy_cores >= _FULL * cores
        self._others.append(max(0.0, busy_cores - own_cores) if full else 0.0)

    @property
    def other_cores(self) -> float | None:
        """Mean cores that others took; None when it was never seen."""
        return fmean(self._others) if self._others else None

    def add(self, measured: Measurement, *, on_gpu: bool) -> None:
        """Take one measurement of one worker."""
        seen = measured.gpu_memory_bytes if on_gpu else measured.rss_bytes
        if seen is not None:
            self.peak_bytes = max(self.peak_bytes or 0, seen)
        if measured.gpu_utilisation is not None:
            self._gpu.append(measured.gpu_utilisation)

    @property
    def gpu_utilisation(self) -> float | None:
        """Mean over time and workers, as a fraction."""
        return fmean(self._gpu) if self._gpu else None


@dataclass(slots=True)
class ProbeWatch:
    """Follows `events-<rank>.ndjson` of all workers. Unknown types and keys are passed over.

    Attributes:
        attached: The `attached` event of rank 0.
        step_time_s: Times of all optimiser steps, as rank 0 saw them.
        wait_s: Of which waiting for data.
        first_step_at: Unix time at which the first step began.
        tails_s: What followed the last batch of each epoch that ended.
        checkpoints_s: How long training stood still for each checkpoint: in a probe, which ends
            with it, until it was on the disk.
        model_bytes, gradient_bytes, optimizer_bytes: What training keeps on rank 0 from step to
            step, as the job told at the end of the probe.
        signs: Signs of life so far. Memory and control events are none: the SDK sends them from
            a thread of its own, also while the training loop hangs.
    """

    attempt_dir: Path
    workers: int
    attached: Mapping[str, Any] = field(default_factory=dict)
    step_time_s: list[float] = field(default_factory=list)
    wait_s: list[float] = field(default_factory=list)
    first_step_at: float | None = None
    tails_s: list[float] = field(default_factory=list)
    checkpoints_s: list[float] = field(default_factory=list)
    checkpoint_bytes: int | None = None
    checkpoint_error: str | None = None
    peak_device_bytes: int | None = None
    reserved_device_bytes: int | None = None
    peak_rss_bytes: int | None = None
    finished: bool = False
    model_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_bytes: int | None = None
    signs: int = 0
    _tails: list[NdjsonTail] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tails = [
            NdjsonTail(self.attempt_dir / f"events-{rank}.ndjson") for rank in range(self.workers)
        ]

    def read(self) -> None:
        """Take in what was written since the last call."""
        for rank, tail in enumerate(self._tails):
            for event in tail.read_new():
                self.signs += event.get("type") not in ("memory", "control")
                self._take(rank, event)

    def _take(self, rank: int, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "memory":
            self._memory(event)
        elif rank != 0:
            return
        elif kind == "attached":
            self.attached = event
        elif kind == "steps":
            self._steps(event)
        elif kind == "epoch":
            self.tails_s += _numbers(event, "tail_s")
        elif kind == "checkpoint":
            stall = _numbers(event, "stall_s")
            self.checkpoints_s += stall or _numbers(event, "duration_s")
            self.checkpoint_bytes = whole(event, "bytes")
        elif kind == "checkpoint_failed":
            self.checkpoint_error = redact(str(event.get("error", "unknown")))
        elif kind in ("probe_finished", "finished"):
            self.finished = True
            self.model_bytes = whole(event, "model_bytes")
            self.gradient_bytes = whole(event, "gradient_bytes")
            self.optimizer_bytes = whole(event, "optimizer_bytes")

    def _steps(self, event: Mapping[str, Any]) -> None:
        times = [float(t) for t in event.get("step_time_s", ()) if t is not None]
        waits = [float(t) for t in event.get("wait_s", ()) if t is not None]
        if times and self.first_step_at is None:
            at = _number(event, "t")
            self.first_step_at = None if at is None else at - sum(times)
        self.step_time_s += times
        self.wait_s += waits

    def _memory(self, event: Mapping[str, Any]) -> None:
        for name in ("peak_device_bytes", "reserved_device_bytes", "peak_rss_bytes"):
            seen = whole(event, name)
            if seen is not None:
                setattr(self, name, max(getattr(self, name) or 0, seen))

    def full_steps(self) -> tuple[list[float], list[float]]:
        """Times and waits of the steps that took a whole global batch.

        The last step of a pass over the data takes what is left; where that is less than a global
        batch, its time says nothing about the others.
        """
        times, waits = self.step_time_s, self.wait_s
        per_pass, samples = whole(self.attached, "steps_per_epoch"), self.samples
        batch = self.global_batch
        waits = waits if len(waits) == len(times) else []
        if not per_pass or not samples or not batch or per_pass < 2 or samples % batch == 0:
            return list(times), list(waits)
        kept = [i for i in range(len(times)) if (i + 1) % per_pass]
        return [times[i] for i in kept], [waits[i] for i in kept if waits]

    def rest_s(self, wall_s: float, start_s: float, *, dropped: int) -> float:
        """What is left of a probe's wall time, of which a run has as much, whatever its length.

        Leaving, and how much longer the warm-up took than as many steady steps. Steps that took
        no whole batch, and every tail and checkpoint, are accounted for: a run's own are predicted.
        Only of a probe that ended: one that was stopped may have been in the middle of a tail.

        Args:
            wall_s: Of the whole probe.
            start_s: Until the first step began.
            dropped: Steps of the warm-up, of those that `full_steps` gives.
        """
        times, _ = self.full_steps()
        slower_s = sum(times[:dropped]) - dropped * fmean(times[dropped:]) if dropped else 0.0
        known_s = sum(self.step_time_s) + sum(self.tails_s) + sum(self.checkpoints_s)
        return max(0.0, wall_s - start_s - known_s) + max(0.0, slower_s)

    @property
    def global_batch(self) -> int | None:
        """Samples of one optimiser step, as the job told."""
        return whole(self.attached, "global_batch")

    @property
    def samples(self) -> int | None:
        """Training samples in what the job was given, as it told."""
        return whole(self.attached, "samples")

    def progress(self) -> dict[str, Any]:
        """What a progress line shows: steps done, their time, and the wait for data in it."""
        times = self.step_time_s[-20:]
        step_s = median(times) if times else None
        waits = self.wait_s[-len(times) :] if times else []
        share = sum(waits) / sum(times) if waits and sum(times) > 0 else None
        batch = self.global_batch
        return {
            "step": len(self.step_time_s),
            "step_time_s": step_s,
            "samples_per_s": batch / step_s if batch and step_s else None,
            "loader_wait_fraction": None if share is None else min(1.0, share),
        }


def _number(event: Mapping[str, Any], name: str) -> float | None:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numbers(event: Mapping[str, Any], name: str) -> list[float]:
    value = _number(event, name)
    return [] if value is None else [value]


def whole(event: Mapping[str, Any], name: str) -> int | None:
    """A whole number of an event; None where it is absent, null or something else."""
    value = _number(event, name)
    return None if value is None else int(value)
