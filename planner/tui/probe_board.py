"""What the Probes screen shows, folded from the events of a running estimate.

The events and their keys are those of `planner.services.estimating.probing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any, Literal

from planner.core.errors import PlannerError
from planner.core.events import EventType
from planner.core.types import EstimateResult, Knobs, ProbeResult, ResourceConfig

BoardState = Literal["idle", "running", "done", "stopped", "failed"]
RowState = Literal["queued", "running", "ok", "oom", "failed", "preempted", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """One probe, queued, running or ended. None stands for not known yet."""

    id: str
    index: int = 0
    resources: ResourceConfig | None = None
    knobs: Knobs | None = None
    state: RowState = "queued"
    reused: bool = False
    phase: str | None = None
    step: int = 0
    steps_total: int | None = None
    step_s: float | None = None
    samples_per_s: float | None = None
    memory_bytes: int | None = None
    loader_fraction: float | None = None
    elapsed_s: float | None = None
    cost_usd: float | None = None
    error: str | None = None
    log: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Part of the steps that is done."""
        return min(self.step / self.steps_total, 1.0) if self.steps_total else 0.0

    def measured(self, result: ProbeResult) -> ProbeRow:
        """The row with what the finished probe measured."""
        row = replace(
            self,
            resources=result.resources,
            knobs=result.knobs,
            state=result.state,
            phase=None,
            step=result.steps,
            memory_bytes=result.peak_device_bytes or result.peak_outside_bytes,
            elapsed_s=result.wall_s,
            cost_usd=result.cost_usd,
            error=result.error,
            log=result.log,
        )
        if not result.step_time_s:
            return row
        step_s = median(result.step_time_s)
        wait = result.loader_wait_s
        return replace(
            row,
            step_s=step_s,
            samples_per_s=result.knobs.global_batch / step_s,
            loader_fraction=None if wait is None else wait / fmean(result.step_time_s),
        )


@dataclass(slots=True)
class ProbeBoard:
    """All probes of one estimate, in the order they were announced.

    `take` is called from the thread that estimates. It only ever replaces whole values, so that
    the screen reads a consistent row at any time.
    """

    state: BoardState = "idle"
    rows: dict[str, ProbeRow] = field(default_factory=dict)
    error: PlannerError | None = None
    started_s: float = 0.0
    stopping: bool = False
    skipping: str | None = None

    def is_set(self) -> bool:
        """Whether the running probe should end: the board is what the estimate may be ended by.

        A skip asks for no more than the end of one probe, and is over with it.
        """
        return self.stopping or self.skipping is not None

    @property
    def current(self) -> ProbeRow | None:
        """The probe that is running."""
        return next((row for row in self.rows.values() if row.state == "running"), None)

    @property
    def ended(self) -> int:
        """Probes that are over, however they ended."""
        return sum(row.state not in ("queued", "running") for row in self.rows.values())

    @property
    def cost_usd(self) -> float:
        """What the probes of this estimate have cost; reused ones were paid for earlier."""
        return sum(r.cost_usd or 0.0 for r in self.rows.values() if not r.reused)

    def take(self, type_: EventType, data: Mapping[str, Any]) -> None:
        """Fold one event in."""
        key = data.get("id")
        if not type_.startswith("probe.") or not isinstance(key, str):
            return
        row = self.rows.get(key) or ProbeRow(id=key, index=len(self.rows) + 1)
        if type_ == "probe.queued":
            row = _queued(row, data)
        elif type_ == "probe.finished":
            row = _finished(row, data)
            if self.skipping == key:
                self.skipping = None
        else:
            row = _running(row, data)
        self.rows = {**self.rows, key: row}

    def take_estimate(self, estimate: EstimateResult) -> None:
        """The estimate is there: every row shows what was measured, reused ones too."""
        rows = dict(self.rows)
        for result in estimate.probes:
            row = rows.get(result.id) or ProbeRow(id=result.id, index=len(rows) + 1, reused=True)
            rows[result.id] = row.measured(result)
        self.rows = rows


def _queued(row: ProbeRow, data: Mapping[str, Any]) -> ProbeRow:
    from planner.store.codec import from_json

    resources, knobs = data.get("resources"), data.get("knobs")
    return replace(
        row,
        resources=None if resources is None else from_json(ResourceConfig, resources),
        knobs=None if knobs is None else from_json(Knobs, knobs),
    )


def _running(row: ProbeRow, data: Mapping[str, Any]) -> ProbeRow:
    known = {
        "phase": data.get("phase"),
        "step": data.get("step"),
        "steps_total": data.get("steps_total"),
        "step_s": data.get("step_time_s"),
        "samples_per_s": data.get("samples_per_s"),
        "memory_bytes": data.get("memory_bytes"),
        "loader_fraction": data.get("loader_wait_fraction"),
        "elapsed_s": data.get("elapsed_s"),
        "cost_usd": data.get("cost_usd"),
    }
    changes: dict[str, Any] = {k: v for k, v in known.items() if v is not None}
    return replace(row, state="running", **changes)


def _finished(row: ProbeRow, data: Mapping[str, Any]) -> ProbeRow:
    from planner.store.codec import from_json

    reused = bool(data.get("reused", False))
    return replace(row.measured(from_json(ProbeResult, data["probe"])), reused=reused)
