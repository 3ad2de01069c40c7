"""What an estimate is doing, while it does it: words on standard error, or events on stdout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any

from planner.cli import diagnostics, render
from planner.core.events import Event, EventSink, EventType
from planner.core.replicas import spread_text
from planner.core.units import format_duration


class Words:
    """An `EventSink` that talks: a status line on a terminal, a line per finished probe.

    Attributes:
        reasons: Why probes failed, as far as it was told; with the first probe of each reason.
    """

    def __init__(self) -> None:
        self._queued = 0
        self._done = 0
        self.reasons: dict[str, int] = {}

    def __call__(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Take one event."""
        if kind == "probe.queued":
            self._queued += 1
        elif kind == "probe.progress":
            diagnostics.status(self._progress(data))
        elif kind == "probe.finished":
            self._done += 1
            self._finished(data)
        elif kind == "log.line":
            diagnostics.say(str(data.get("text", "")))
        elif kind == "estimate.completed":
            diagnostics.status("")

    def _progress(self, data: Mapping[str, Any]) -> str:
        done, total = data.get("step"), data.get("steps_total")
        steps = f" step {done}/{total}" if isinstance(done, int) and total else ""
        index = data.get("index", self._done + 1)
        elapsed = data.get("elapsed_s")
        took = f" {format_duration(elapsed)}" if isinstance(elapsed, int | float) else ""
        return f"probe {index}/{max(self._queued, 1)} {data.get('phase', '')}{steps}{took}"

    def _finished(self, data: Mapping[str, Any]) -> None:
        diagnostics.status("")
        probe = data.get("probe", {})
        shape, knobs = probe.get("resources", {}), probe.get("knobs", {})
        workers = shape.get("nodes", 1) * shape.get("workers_per_node", 1)
        layout = spread_text(knobs.get("tensor_parallel", 1), knobs.get("pipeline_parallel", 1))
        spread = f" ({layout})" if layout else ""
        what = f"{workers} worker{'s' if workers != 1 else ''}{spread}"
        what += f" x {knobs.get('micro_batch', '?')}"
        state = "kept" if data.get("reused") else probe.get("state", "?")
        index = data.get("index", self._done)
        line = f"probe {index}: {what}: {state}"
        times = probe.get("step_time_s") or ()
        if times:
            line += f", step {median(times) * 1000:.1f} ms"
        elif probe.get("error"):
            line += f": {self._reason(str(probe['error']), index)}"
        diagnostics.say(line)
        if diagnostics.verbosity() and not times:
            for text in probe.get("log", ()):
                diagnostics.say(f"  | {text}")

    def _reason(self, error: str, index: int) -> str:
        """Why a probe failed; each reason is told once."""
        if error in self.reasons:
            return f"as probe {self.reasons[error]}"
        if not diagnostics.is_quiet():
            self.reasons[error] = index
        return error


class Stream:
    """An `EventSink` that prints `planner.event/1` lines, numbered without a gap.

    `estimate.completed` is held back: its line holds the whole document, which the caller has.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._seq = 0

    def __call__(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Take one event."""
        if kind != "estimate.completed":
            self.put(kind, data)

    def put(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Print one event."""
        from planner.wire.to_wire import event_document

        event = Event(seq=self._seq, ts=self._now(), type=kind, data=_on_the_wire(data))
        self._seq += 1
        render.json_line(event_document(event))


def _on_the_wire(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of an event with a probe in it as the document would show that probe."""
    from planner.core.types import ProbeResult
    from planner.store.codec import from_json
    from planner.wire.to_wire import probe_document

    if "probe" not in data:
        return data
    return {**data, "probe": probe_document(from_json(ProbeResult, data["probe"]))}


def sink(*, ndjson: bool) -> EventSink:
    """Whom an estimate tells what it does."""
    return Stream() if ndjson else Words()
