"""From a wish to a changed run: show what it would do, ask where money or policy want it, send."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from planner.core.adjust import Expectation
from planner.services.adjusttext import outcome_parts
from planner.services.api import RunView
from planner.tui.agreements import adjust_agreement, ask_to_agree
from planner.tui.screens.override import Override, OverrideScreen

if TYPE_CHECKING:
    from planner.tui.screens.following import FollowingScreen


def ask_to_override(screen: FollowingScreen, view: RunView) -> None:
    """Show the levers of the run; carry on with what was chosen."""
    ask = partial(screen.session.services.adjust, view.summary.id, dry_run=True)
    note = "nothing has changed yet"
    if screen.session.demo:
        note = "the demo plays a recording: what you change is made up"
    screen.app.push_screen(OverrideScreen(view, ask, note), partial(_chosen, screen, view))


def _chosen(screen: FollowingScreen, view: RunView, chosen: Override | None) -> None:
    if chosen is None:
        return
    send = partial(_send, screen, view.summary.id, chosen)
    if chosen.expected.dearer or chosen.expected.asks:
        ask_to_agree(screen.planner, adjust_agreement(view, chosen.expected), send)
    else:
        send()


def _send(screen: FollowingScreen, run_id: str, chosen: Override) -> None:
    # What was shown is what is agreed to, and not a cent above it.
    agreed = replace(chosen.wish, max_usd_per_h=chosen.expected.peak_usd_per_h)
    services = screen.session.services
    screen.call(lambda: services.adjust(run_id, agreed), partial(_sent, screen), group="command")


def _sent(screen: FollowingScreen, expected: Expectation) -> None:
    if expected.command is None:
        screen.notify(expected.what)
        return
    screen.notify(f"Asked for: {expected.what}.", markup=False)
    screen.await_change(expected.command)


def outcome_told(screen: FollowingScreen, view: RunView, command: str) -> bool:
    """Say what came of a change that was asked for; whether that is known by now."""
    change = next((c for c in view.adjustments if c.command == command), None)
    if change is None or change.pending:
        return False
    text = ", ".join(outcome_parts(change))
    if change.state == "done":
        screen.notify(text, title=change.what, markup=False)
    else:
        screen.notify(text, title=change.what, severity="error", timeout=20, markup=False)
    return True
