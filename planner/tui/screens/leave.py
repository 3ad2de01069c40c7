"""Leaving the app: what goes on is said, what would end is asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.core.types import TERMINAL_STATES, RunState
from planner.services.api import RunSummary

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp


def leave(app: PlannerApp) -> None:
    """Leave, after asking when probes are running."""
    if app.session.board.state != "running":
        _go(app)
        return
    from planner.tui.screens.question import Answer, QuestionScreen

    question = QuestionScreen(
        "Leave while probes are running?",
        ["The running probe is stopped; what was measured so far is kept."],
        (Answer("stay", "Stay", "esc"), Answer("leave", "Stop probes and leave", "y")),
    )
    app.push_screen(question, lambda answer: _go(app) if answer == "leave" else None)


def _go(app: PlannerApp) -> None:
    app.stop_estimate()
    app.farewell = []

    def say(runs: tuple[RunSummary, ...]) -> None:
        # A demo's run ends with the app: there is nothing to come back to.
        app.farewell = [] if app.session.demo else farewell(runs)
        app.exit()

    app.call_service(
        lambda: app.session.services.runs(20), say, lambda _error: app.exit(), group="leave"
    )


def farewell(runs: tuple[RunSummary, ...]) -> list[str]:
    """What to print once the screen is gone: which runs go on, and how to come back."""
    resting = {*TERMINAL_STATES, RunState.PAUSED}
    return [
        f"{run.id} ({run.name}) goes on; planner attach {run.id} shows it again."
        for run in runs
        if run.state not in resting
    ]
