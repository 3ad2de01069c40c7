"""The books of a run: journal, record and money, kept together by its supervisor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from planner.core.adjust import InForce, planned
from planner.core.clock import Clock
from planner.core.events import EventType
from planner.core.lifecycle import check_move
from planner.core.plan import Decision, Plan
from planner.core.types import RunState
from planner.services.supervisor.spend import SpendMeter
from planner.store.codec import to_json
from planner.store.journal import Journal
from planner.store.layout import RunDir
from planner.store.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How often the supervisor looks, and how long it waits. Seconds.

    Attributes:
        poll_s: Between two looks at workers, requests and the cap.
        progress_s: Between two lines of progress in the journal, early in a run.
        slow_progress_s: The same once the run is ten minutes old.
        measure_s: Between two measurements of the workers from outside, at the least.
        guard_s: Between two looks at the chances to keep deadline and cap.
        stop_grace_s: From a request to stop to force, beyond the time of a checkpoint.
        start_s: What a job gets for importing and building, before silence counts as hanging.
        crash_grace_s: What the other workers get to end after one failed.
        exit_s: A high estimate of what processes need to leave after their last step.
        unknown_checkpoint_s: A high estimate for a checkpoint before one was seen.
        unreachable_s: How long a runner may fail to answer.
        relaunch_s: Pause before a failed attempt is started again.
        join_s: What a worker that joins gets for importing, building and warming up.
        adjust_s: What the job gets to take up a change, evaluations not counted.
        recover_s: What the others get to go on without a worker that was lost.
        leave_s: What a worker that leaves gets for its exit.
        rate_s: After a change, how long the new rate is measured.
    """

    poll_s: float = 0.5
    progress_s: float = 2.0
    slow_progress_s: float = 5.0
    measure_s: float = 2.0
    guard_s: float = 5.0
    stop_grace_s: float = 30.0
    start_s: float = 120.0
    crash_grace_s: float = 5.0
    exit_s: float = 3.0
    unknown_checkpoint_s: float = 5.0
    unreachable_s: float = 60.0
    relaunch_s: float = 1.0
    join_s: float = 180.0
    adjust_s: float = 180.0
    recover_s: float = 10.0
    leave_s: float = 10.0
    rate_s: float = 10.0


class RunBook:
    """Everything the supervisor writes about its run goes through here.

    Args:
        run: The run's folder.
        plan: What was agreed to.
        journal: Opened by the caller, who holds the run's lock.
        clock: Time of events and of money.
    """

    def __init__(self, *, run: RunDir, plan: Plan, journal: Journal, clock: Clock) -> None:
        self.run = run
        self.plan = plan
        self.journal = journal
        self.clock = clock
        self.record = RunRecord.replay(journal.events)
        self.meter = SpendMeter(self.record.spent_microusd)

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self.record.state

    def spent_microusd(self) -> int:
        """Spent up to now."""
        return self.meter.spent_microusd(self.clock.monotonic_s())

    def emit(self, kind: EventType, data: Mapping[str, Any], *, at: datetime | None = None) -> None:
        """Write one event and take it into the record. Raises `StoreError`."""
        self.record.apply(self.journal.append(kind, _finite(data), at=at))

    def move(self, to: RunState, kind: EventType, **data: Any) -> None:
        """Move the run to another state.

        Raises:
            TransitionError: The move is not allowed.
        """
        check_move(self.run.run_id, self.state, to)
        self.emit(kind, {"state": to.value, **data})

    def warn(self, code: str, text: str, **data: Any) -> None:
        """Tell the reader of the run something, under a stable code."""
        self.emit("guard.warning", {"code": code, "text": text, **data})

    def decide(
        self,
        action: str,
        why: str,
        *,
        expected: str = "-",
        mode: str = "auto",
        observation: Mapping[str, float | str | None] | None = None,
        alternatives: tuple[tuple[str, float | None, str], ...] = (),
        **effects: Any,
    ) -> str:
        """Write down a decision with what it was based on; its id.

        `effects` stand beside the decision in the event: changed caps.
        """
        seen: dict[str, float | str | None] = {
            "step": float(self.record.step),
            "spent_usd": self.spent_microusd() / 1e6,
            "usd_per_h": self.meter.usd_per_h,
        }
        decision = Decision(
            id=f"d{len(self.record.decisions) + 1}",
            at=self.clock.now(),
            action=action,
            why=why,
            mode=mode,
            expected=expected,
            observation={**seen, **(observation or {})},
            alternatives=alternatives,
        )
        self.emit("decision.applied", {**to_json(decision), **effects})
        return decision.id

    def measured(self, decision_id: str, measured: str, **effects: Any) -> None:
        """Add what came of a decision; `effects` as of `decide`."""
        decision = self.record.decisions.get(decision_id)
        if decision is not None:
            told = {**to_json(decision), "measured": measured, **effects}
            self.emit("decision.measured", told)

    @property
    def in_force(self) -> InForce:
        """What the run works with, and its next attempt starts with."""
        return self.record.adjust.in_force or planned(self.plan)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, but a job's own numbers may be either: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
