"""What the app does about estimates: start, skip, stop, and score again under another goal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from planner.core.errors import PlannerError
from planner.core.job import Goal
from planner.core.types import EstimateResult
from planner.services.api import EstimateRequest
from planner.tui.probe_board import ProbeBoard

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp


def start_estimate(app: PlannerApp, *, probe: bool) -> None:
    """Probe (or not), predict and score, in a thread; Probes shows how it goes."""
    session = app.session
    if session.job is None:
        app.notify("Open a job first: planner JOB.toml", severity="warning")
        return
    if session.board.state == "running":
        app.go("probes")
        return
    board = session.board = ProbeBoard(state="running", started_s=session.clock.monotonic_s())
    session.what_if = None
    request = EstimateRequest(job=session.job, goal=session.goal, probe=probe)
    services = session.services
    app.call_service(
        lambda: services.estimate(request, board.take, board),
        partial(_done, app, board),
        partial(_failed, app, board),
        group="estimate",
    )
    app.go("probes")


def stop_estimate(app: PlannerApp) -> None:
    """Stop probing; what was measured until then is kept and used."""
    app.session.board.stopping = True


def skip_probe(app: PlannerApp) -> None:
    """End the running probe and go on with the next."""
    board = app.session.board
    if board.current is not None:
        board.skipping = board.current.id


def _done(app: PlannerApp, board: ProbeBoard, estimate: EstimateResult) -> None:
    board.take_estimate(estimate)
    board.state = "stopped" if board.stopping else "done"
    if board is app.session.board:
        keep_estimate(app, estimate)
        app.changed()


def _failed(app: PlannerApp, board: ProbeBoard, error: PlannerError) -> None:
    board.error, board.state = error, "failed"
    if board is app.session.board:
        app.session.estimate_error = error
        app.changed()
        app.show_error(error)


def keep_estimate(app: PlannerApp, estimate: EstimateResult | None) -> None:
    """Make this the session's estimate, scored for the session's goal."""
    if estimate is None:
        return
    session = app.session
    session.estimate, session.estimate_error, session.what_if = estimate, None, None
    app.changed()
    if estimate.goal != session.goal:
        rescore(app)


def look_for_kept(app: PlannerApp) -> None:
    """Ask for the newest kept estimate of the job, when this session has none."""
    session = app.session
    job, services = session.job, session.services
    if job is None or session.estimate is not None:
        return

    def found(estimate: EstimateResult | None) -> None:
        if session.board.state != "failed":
            session.estimate_error = None
        keep_estimate(app, estimate)
        app.changed()

    def failed(error: PlannerError) -> None:
        session.estimate_error = error  # Options shows it, in place of what is not there
        app.changed()

    app.call_service(lambda: services.latest_estimate(job), found, failed, group="latest")


def set_goal(app: PlannerApp, goal: Goal) -> None:
    """Another goal: the estimate there is gets scored again, without new probes."""
    app.session.goal = goal
    if app.session.estimate is not None:
        rescore(app)


def rescore(app: PlannerApp) -> None:
    """Score the estimate for the session's goal."""
    session = app.session
    estimate, goal = session.estimate, session.goal
    if estimate is None:
        return

    def done(scored: EstimateResult) -> None:
        if session.goal == goal and session.estimate is not None:
            session.estimate, session.what_if = scored, None
            app.changed()

    app.call_service(lambda: session.services.rescore(estimate, goal), done, group="rescore")


def try_goal(app: PlannerApp, goal: Goal) -> None:
    """What if this were the goal? Shown until it is taken over or left."""
    session = app.session
    estimate = session.estimate
    if estimate is None:
        return

    def done(scored: EstimateResult) -> None:
        # Only the newest question counts: answers may come in another order.
        if session.tried_goal == goal:
            session.what_if = replace(scored, goal=goal)
            app.changed()

    session.tried_goal = goal
    app.call_service(lambda: session.services.rescore(estimate, goal), done, group="what-if")


def leave_goal(app: PlannerApp) -> None:
    """Drop what was tried out."""
    app.session.tried_goal = app.session.what_if = None
