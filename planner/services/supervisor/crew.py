"""What is in flight within an attempt: a change, workers that join, and those that are let go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from planner.core.adjust import Adjustment, InForce
from planner.core.errors import CleanupError, RunnerError
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import RunBook
from planner.services.supervisor.units import Unit
from runners.base import Status, WorkerState

_KNOBS = ("micro_batch", "loader_workers", "memory", "global_batch")
"""Levers that the control file carries as they were asked for."""
TOO_LATE = "training was over before anybody could join"


def let_go(book: RunBook, attempt: Attempt, workers: Iterable[int]) -> None:
    """End these workers, free what they held, and correct the price in force.

    What cannot be ended is journaled as `resource.leaked`; it is paid for until it is.
    """
    wanted = set(workers)
    attempt.part(wanted)
    for unit in attempt.units:
        ending = [worker for worker in unit.held if worker in wanted]
        if not ending:
            continue
        try:
            unit.shrink(ending)
        except (CleanupError, RunnerError) as error:
            text = f"{error.text} ({error.hint or 'see planner clean'})"
            book.emit("resource.leaked", {"text": text, "key": unit.handle.key})
            continue
        book.meter.hold(attempt.usd_per_h, book.clock.monotonic_s())
        book.emit(
            "resource.released",
            {
                "attempt": attempt.folder.number,
                "unit": unit.first_worker,
                "workers": ending,
                "key": unit.handle.key,
                "usd_per_h": attempt.usd_per_h,
                "spent_microusd": book.spent_microusd(),
            },
        )


@dataclass(slots=True)
class Joiners:
    """The workers of a unit that was started to join.

    Attributes:
        until_s: When they are given up unless they are ready.
        ready: Those that said so.
    """

    unit: Unit
    until_s: float
    ready: set[int] = field(default_factory=set)

    @property
    def workers(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(self.unit.workers)

    @property
    def all_ready(self) -> bool:
        """Whether every one of them waits to be taken."""
        return self.ready.issuperset(self.unit.workers)

    def problem(self, attempt: Attempt, status: Status, now_s: float) -> str | None:
        """Why they cannot join any more; None while they can."""
        mine = [w for w in status.workers if w.rank in self.unit.workers]
        ended = [w for w in mine if w.state in (WorkerState.EXITED, WorkerState.LOST)]
        if ended and all(w.exit_code == 0 for w in ended):
            return f"the others went on without worker {', '.join(str(w.rank) for w in ended)}"
        if ended:
            reason, _ = attempt.explain(Status(workers=tuple(ended)), [ended[0].rank])
            return reason
        if not self.all_ready and now_s >= self.until_s:
            late = ", ".join(str(w) for w in self.workers if w not in self.ready)
            return f"worker {late} was not ready in time"
        return None


@dataclass(slots=True)
class Leavers:
    """Workers that have left and whose exit is waited for before they are let go."""

    until_s: dict[int, float] = field(default_factory=dict)

    def add(self, workers: Iterable[int], until_s: float) -> None:
        """These have left, and are to be gone by then."""
        for worker in workers:
            self.until_s.setdefault(worker, until_s)

    def due(self, status: Status, now_s: float) -> list[int]:
        """Those that have ended, or should have; each is told of once."""
        alive = (WorkerState.PENDING, WorkerState.RUNNING)
        running = {w.rank for w in status.workers if w.state in alive}
        due = [w for w, at_s in self.until_s.items() if w not in running or now_s >= at_s]
        for worker in due:
            del self.until_s[worker]
        return due


@dataclass(slots=True, kw_only=True)
class Change:
    """A change that is being made in flight.

    Attributes:
        request: What was asked for; None when a lost worker is replaced.
        target: What is in force afterwards, as far as planner knows.
        crew: The workers that are wanted; None leaves them as they are.
        joiners: Those that are to join; None when nobody is.
        rate: Samples per second before.
        wanted_s: Since when it is wanted of the job; None while the joiners are not ready.
    """

    id: str
    request: Adjustment | None
    target: InForce
    crew: tuple[int, ...] | None
    joiners: Joiners | None
    rate: float | None
    wanted_s: float | None = None

    def wanted(self) -> dict[str, Any]:
        """What the control file says."""
        adjust: dict[str, Any] = {"id": self.id}
        if self.crew is not None:
            adjust["crew"] = list(self.crew)
        wish = self.request.wish if self.request else None
        if wish is not None:
            asked = {name: getattr(wish, name) for name in _KNOBS}
            adjust |= {name: value for name, value in asked.items() if value is not None}
            if wish.global_batch is not None:
                adjust["lr_rule"] = wish.lr_rule
        return adjust
