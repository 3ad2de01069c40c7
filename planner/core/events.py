"""What happens, as events: the one stream that journals, NDJSON output and screens share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

EventType = Literal[
    "estimate.started",
    "probe.queued",
    "probe.started",
    "probe.progress",
    "probe.finished",
    "probe.decided",
    "model.fitted",
    "estimate.completed",
    "run.created",
    "run.provisioning",
    "run.started",
    "run.progress",
    "run.metric",
    "run.checkpoint",
    "run.interrupted",
    "run.unattended",
    "run.adjusted",
    "run.worker_lost",
    "run.resumed",
    "run.paused",
    "run.stopping",
    "run.finished",
    "decision.proposed",
    "decision.approved",
    "decision.rejected",
    "decision.applied",
    "decision.measured",
    "guard.warning",
    "guard.stop",
    "command.received",
    "resource.acquired",
    "resource.released",
    "resource.leaked",
    "log.line",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `seq` has no gaps within its source; `data` holds plain JSON values."""

    seq: int
    ts: datetime
    type: EventType
    data: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None


EventSink = Callable[[EventType, Mapping[str, Any]], None]
"""Who reports calls this with a type and its data; who listens adds number, time and run."""


def ignore(_type: EventType, _data: Mapping[str, Any]) -> None:
    """An `EventSink` that listens to nothing."""
