"""A recorded probe or run being played: what it would have said by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from planner.core.events import Event, EventType
from planner.core.job import Goal
from planner.core.types import ProbeResult
from planner.demo.recording import RecordedRun
from planner.store.codec import datetime_text, parse_datetime

WHEN_RECORDED = "when this was recorded"
"""Marks what a person asked for then, since whoever watches the demo did not."""


@dataclass(slots=True)
class Play:
    """A recorded run being played: how far, and what was asked of it meanwhile.

    Attributes:
        run_id: Its id in this session.
        began_at: When it was launched, in this session.
        speed: Recorded seconds per real second.
        held_s: Recorded seconds played before the last pause.
        since_s: Monotonic time at which it last went on; None while it rests.
        asked: Events of what was asked of it here, at their recorded seconds.
    """

    run_id: str
    recorded: RecordedRun
    began_at: datetime
    speed: float
    goal: Goal
    held_s: float = 0.0
    since_s: float | None = None
    asked: list[tuple[float, EventType, dict[str, Any]]] = field(default_factory=list)

    def played_s(self, now_s: float) -> float:
        """How far into the recorded run it is."""
        running_s = 0.0 if self.since_s is None else (now_s - self.since_s) * self.speed
        return min(self.held_s + running_s, self.recorded.duration_s)

    def hold(self, now_s: float) -> None:
        """Stand still from now on."""
        self.held_s, self.since_s = self.played_s(now_s), None

    def events(self, played_s: float) -> tuple[Event, ...]:
        """The journal up to then, as of this session: its times, its id, its goal."""
        created_at = self.recorded.plan.created_at
        found = [
            (at_s, event.type, self._of_now(event, at_s))
            for event in self.recorded.events
            for at_s in ((event.ts - created_at).total_seconds(),)
        ]
        merged = sorted([*found, *self.asked], key=lambda item: item[0])
        return tuple(
            Event(
                seq=seq,
                ts=self.began_at + timedelta(seconds=at_s),
                type=kind,
                data=data,
                run_id=self.run_id,
            )
            for seq, (at_s, kind, data) in enumerate(merged)
            if at_s <= played_s
        )

    def _of_now(self, event: Event, at_s: float) -> dict[str, Any]:
        data = dict(event.data)
        if event.type == "run.created":
            agreed = self._deadline_at(0.0)
            data["budget_microusd"] = microusd(self.goal.budget_usd)
            data["deadline_at"] = agreed and datetime_text(agreed)
            return data
        shift = self.began_at - self.recorded.plan.created_at
        if isinstance(data.get("at"), str):
            data["at"] = datetime_text(parse_datetime(data["at"]) + shift)
        if event.type == "decision.applied":
            data.update(self._decision_of_now(data, at_s))
        return data

    def _decision_of_now(self, data: Mapping[str, Any], at_s: float) -> dict[str, Any]:
        """What is another in this session: who asked, and the deadline that was put off."""
        changed: dict[str, Any] = {}
        if data.get("mode") == "manual":
            changed |= {"mode": "recorded", "why": f"{data.get('why')} {WHEN_RECORDED}"}
        was = self.recorded.plan.goal.deadline_at
        if was is not None and isinstance(data.get("deadline_at"), str):
            agreed = self._deadline_at(at_s)
            later = parse_datetime(data["deadline_at"]) - was
            changed["deadline_at"] = agreed and datetime_text(agreed + later)
        return changed

    def _deadline_at(self, at_s: float) -> datetime | None:
        """The deadline of this session at a recorded second, but for what the recording adds."""
        if self.goal.deadline_s is None:
            return None
        asked = [
            data["deadline_at"] for t, _, data in self.asked if t < at_s and "deadline_at" in data
        ]
        return (
            parse_datetime(asked[-1])
            if asked
            else self.began_at + timedelta(seconds=self.goal.deadline_s)
        )


def recorded_text(text: str) -> str:
    """A line of planner's own output; of what a person asked for then, it says so."""
    if text.startswith("asked to "):
        return f"{text} {WHEN_RECORDED}"
    return text.replace("(asked for)", f"(asked for {WHEN_RECORDED})")


def probe_progress(probe: ProbeResult, elapsed_s: float, total: int) -> dict[str, Any]:
    """What a progress event said, or would have said, `elapsed_s` into the probe."""
    start_s = min(probe.start_s or 0.0, probe.wall_s)
    part = (elapsed_s - start_s) / max(probe.wall_s - start_s, 1e-6)
    step = min(max(int(part * (total + 2)), 0), total)
    seen = probe.step_time_s[: max(step - probe.warmup_steps, 0)]
    step_s = median(seen) if seen else None
    phase = "starting" if step == 0 else "warm-up" if step < probe.warmup_steps else "measuring"
    share = probe.loader_wait_s / step_s if probe.loader_wait_s is not None and step_s else None
    return {
        "phase": phase if step < total else "ending",
        "step": step,
        "steps_total": total,
        "step_time_s": step_s,
        "samples_per_s": probe.knobs.global_batch / step_s if step_s else None,
        "loader_wait_fraction": share,
        "memory_bytes": probe.peak_outside_bytes if step else None,
        "elapsed_s": elapsed_s,
        "cost_usd": probe.cost_usd * elapsed_s / probe.wall_s if probe.wall_s else 0.0,
    }


def microusd(usd: float | None) -> int | None:
    """Dollars as whole micro-dollars."""
    return None if usd is None else round(usd * 1_000_000)
