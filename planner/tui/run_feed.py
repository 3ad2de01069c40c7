"""What the run screens know of one run: its view and its log, asked for in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.core.errors import PlannerError
from planner.core.types import TERMINAL_STATES, RunState
from planner.services.api import LogLine, RunSummary, RunView, Services

LOG_LINES = 5000
"""Most lines of a log that are kept for looking at; `planner logs` shows all of them."""


@dataclass(slots=True)
class RunFeed:
    """Follows one run.

    Attributes:
        fresh: Lines that came with the last answer.
        more: Whether the log holds more than came with it.
        busy: Whether an answer is awaited: there is never more than one question.
    """

    run_id: str | None = None
    view: RunView | None = None
    lines: list[LogLine] = field(default_factory=list)
    fresh: tuple[LogLine, ...] = ()
    cursor: Mapping[str, int] | None = None
    more: bool = False
    error: PlannerError | None = None
    asked: bool = False
    busy: bool = False

    def follow(self, run_id: str | None) -> None:
        """Follow another run from its start."""
        if run_id != self.run_id:
            self.run_id, self.view, self.error = run_id, None, None
            self.lines, self.fresh, self.cursor, self.asked = [], (), None, False

    def ask(self, services: Services) -> RunFeed:
        """One question to the services, in a thread: the answer as a feed of its own."""
        run_id = self.run_id or newest(services.runs())
        if run_id is None:
            return RunFeed(asked=True)
        view = services.view(run_id)
        page = services.logs(run_id, self.cursor)
        return RunFeed(
            run_id=run_id,
            view=view,
            fresh=page.lines,
            cursor=page.cursor,
            more=page.more,
            asked=True,
        )

    def take(self, answer: RunFeed) -> None:
        """Take an answer over."""
        if self.run_id not in (None, answer.run_id):
            return
        self.run_id, self.view, self.error = answer.run_id, answer.view, None
        self.cursor, self.fresh, self.asked = answer.cursor, answer.fresh, True
        self.lines = [*self.lines, *answer.fresh][-LOG_LINES:]


def newest(runs: tuple[RunSummary, ...]) -> str | None:
    """The newest run that is alive, or else the newest."""
    alive = [run.id for run in runs if run.state not in TERMINAL_STATES]
    return next(iter([*alive, *(run.id for run in runs)]), None)


def resumable(run: RunSummary) -> bool:
    """Whether `resume` would take the run on: it rests, or has lost its supervisor."""
    resting = (RunState.PAUSED, RunState.FAILED, RunState.STOPPED_BY_CAP)
    return run.state in resting or not (over(run.state) or run.supervisor_alive)


def over(state: RunState) -> bool:
    """Whether nobody works on the run any more."""
    return state in TERMINAL_STATES
