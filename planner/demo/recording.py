"""A recorded session: an estimate with its probes, and runs with their journals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.core.events import Event
from planner.core.job import JobSpec
from planner.core.plan import Plan
from planner.core.types import EstimateResult
from planner.services.api import Check
from planner.store.codec import from_json, to_json

BUNDLED = Path(__file__).with_name("recording.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a recording comes from: shown to whoever asks whether the demo is real."""

    recorded_on: str
    machine: str
    command: str
    planner_version: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLine:
    """A line of output, `at_s` seconds after its run was created."""

    at_s: float
    source: str
    rank: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run from its launch to its end."""

    plan: Plan
    events: tuple[Event, ...]
    log: tuple[RecordedLine, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """From creation to the last event."""
        return (self.events[-1].ts - self.plan.created_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One session. The first run is the one that is played when its option is launched."""

    source: Source
    job: JobSpec
    checks: tuple[Check, ...]
    estimate: EstimateResult
    runs: tuple[RecordedRun, ...]


def read_recording(path: Path = BUNDLED) -> Recording:
    """Raises `StoreError` when the file is not a recording, `OSError` when it is not there."""
    return from_json(Recording, json.loads(path.read_text(encoding="utf-8")))


def recording_text(recording: Recording) -> str:
    """The file's text: one line, as nobody reads it and every byte is shipped."""
    return json.dumps(to_json(recording), separators=(",", ":"), ensure_ascii=False) + "\n"
