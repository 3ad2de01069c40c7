"""The changes of a run as its journal tells them: which are wanted, which were made, what is now.

Part of `planner.store.record`, and as forgiving: what does not fit leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, get_args

from planner.core.adjust import Adjustment, AdjustState, How, InForce, Wish
from planner.core.errors import StoreError
from planner.core.events import Event
from planner.store.codec import from_json
from planner.store.fields import as_number, as_whole

_MEASURES = ("downtime_s", "stall_s", "step_time_s", "samples_per_s_before", "samples_per_s")
_COUNTS = ("step", "workers", "redone_samples", "lost_samples")


@dataclass(slots=True)
class AdjustLog:
    """All changes of a run, oldest first.

    Attributes:
        in_force: What the next attempt starts with; None before anything was changed.
        levers: What the job of the current attempt says it can change in flight; None before.
        crew: Numbers of the workers that train, by rank; empty before it is known.
        lost: How many workers were lost since the last checkpoint.
        targets: What is to be in force once a change is made, by its decision.
    """

    changes: list[Adjustment] = field(default_factory=list)
    in_force: InForce | None = None
    levers: tuple[str, ...] | None = None
    crew: tuple[int, ...] = ()
    lost: int = 0
    targets: dict[str, InForce] = field(default_factory=dict)
    _expected: dict[str, str] = field(default_factory=dict)

    @property
    def pending(self) -> tuple[Adjustment, ...]:
        """What was asked for and is neither done nor given up, oldest first."""
        return tuple(change for change in self.changes if change.pending)

    def find(self, decision_id: str) -> Adjustment | None:
        """The change of that decision."""
        return next((c for c in self.changes if c.id == decision_id), None)

    def expected(self, command: str | None) -> str:
        """What was expected of a change when it was asked for, in words."""
        return self._expected.get(command or "", "-")

    def command(self, event: Event, idle_s: float) -> None:
        """Take in `command.received`: a wish waits from now on."""
        data = event.data
        if data.get("action") != "adjust":
            return
        wish = _wish(data.get("wish"))
        if wish is not None:
            self._expected[str(data.get("id"))] = str(data.get("expected", "-"))
            self.changes.append(
                Adjustment(
                    id=None,
                    command=str(data.get("id")),
                    what=str(data.get("what", ", ".join(wish.levers))),
                    state="waiting",
                    wish=wish,
                    asked_at=event.ts,
                    idle_s=idle_s,
                )
            )

    def decision(self, event: Event) -> None:
        """Take in `decision.applied` and `decision.measured`, where they are about a change."""
        told = event.data.get("adjust")
        if not isinstance(told, Mapping):
            return
        decision_id, command = event.data.get("id"), told.get("command")
        for index, change in enumerate(self.changes):
            asked = change.id or change.command
            mine = decision_id if change.id else command
            if isinstance(decision_id, str) and asked is not None and asked == mine:
                target = _in_force(told.get("target"))
                if target is not None:
                    self.targets[decision_id] = target
                self.changes[index] = _updated(replace(change, id=decision_id), told)
                return

    def adjusted(self, event: Event) -> None:
        """Take in `run.adjusted`: it is done, and this is in force."""
        data = event.data
        in_force = _in_force(data.get("in_force"))
        if in_force is not None:
            self.in_force = in_force
            self.crew = in_force.crew
        decision_id = data.get("id")
        reason, lost = data.get("reason"), data.get("lost")
        if reason == "lost" and lost:
            what = f"went on without worker {_listed(lost)}"
            found = Adjustment(id=None, command=None, what=what, state="done", reason="lost")
            self.changes.append(_done(found, data, event.ts))
        elif reason == "replaced":
            what = f"workers {data.get('workers')} again"
            found = Adjustment(id=None, command=None, what=what, state="done", reason="replaced")
            self.changes.append(_done(found, data, event.ts))
        for index, change in enumerate(self.changes):
            if change.id is not None and change.id == decision_id:
                self.changes[index] = _done(change, data, event.ts)

    def attempt(self) -> None:
        """A new attempt: what its job can change is not known yet."""
        self.levers = None
        self.crew = ()

    def told(self, data: Mapping[str, Any]) -> None:
        """Take in `run.progress`, which tells once what the job can change."""
        levers, crew = data.get("levers"), data.get("crew")
        if isinstance(levers, list):
            self.levers = tuple(str(lever) for lever in levers)
        if isinstance(crew, list):
            self.crew = tuple(worker for worker in crew if isinstance(worker, int))


def _done(change: Adjustment, data: Mapping[str, Any], at: datetime) -> Adjustment:
    return _updated(replace(change, state="done", done_at=at), data)


def _updated(change: Adjustment, told: Mapping[str, Any]) -> Adjustment:
    """The change with whatever is told of it."""
    values: dict[str, Any] = {}
    for name in _MEASURES:
        if (number := as_number(told.get(name))) is not None:
            values[name] = number
    for name in _COUNTS:
        if (count := as_whole(told.get(name))) is not None:
            values[name] = count
    for name in ("what", "text"):
        if isinstance(told.get(name), str):
            values[name] = told[name]
    state, how = told.get("state"), told.get("how")
    if state in get_args(AdjustState):
        values["state"] = state
    if how in get_args(How):
        values["how"] = how
    return replace(change, **values)


def _listed(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) and value else "?"


def _wish(data: object) -> Wish | None:
    try:
        return from_json(Wish, data)
    except StoreError:
        return None


def _in_force(data: object) -> InForce | None:
    try:
        return from_json(InForce, data)
    except StoreError:
        return None
