"""A recorded probe or run being played: what it would have said by now."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from planner.core.events import Event, EventType
from planner.core.types import Goal, ProbeResult
from planner.demo.recording import RecordedRun
from planner.store.codec import datetime_text, parse_datetime


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
            ((event.ts - created_at).total_seconds(), event.type, self._of_now(event))
            for event in self.recorded.events
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

    def _of_now(self, event: Event) -> dict[str, Any]:
        data = dict(event.data)
        if event.type == "run.created":
            goal = self.goal
            deadline = self.began_at + timedelta(seconds=goal.deadline_s or 0.0)
            data["budget_microusd"] = microusd(goal.budget_usd)
            data["deadline_at"] = None if goal.deadline_s is None else datetime_text(deadline)
            return data
        shift = self.began_at - self.recorded.plan.created_at
        for name in ("at", "deadline_at"):
            if isinstance(data.get(name), str):
                data[name] = datetime_text(parse_datetime(data[name]) + shift)
        return data


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
