"""A screen that follows the session's run: it asks, takes the answer, and never asks twice."""

from __future__ import annotations

from functools import partial

from planner.core.errors import PlannerError
from planner.services.api import RunView
from planner.tui.run_feed import RunFeed, over, resumable
from planner.tui.screens.base import PlannerScreen


class FollowingScreen(PlannerScreen):
    """What Runs and Decisions share: the feed of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._feed = RunFeed()
        self._awaited: str | None = None

    def arrive(self) -> None:
        """Ask at once."""
        self._feed.follow(self.session.run_id)
        self.ask()

    def beat(self) -> None:
        """Ask again."""
        self.ask()

    def ask(self) -> None:
        """Ask for the run, unless an answer is still awaited."""
        feed = self._feed
        if feed.busy:
            return
        feed.busy = True
        self.call(
            partial(feed.ask, self.session.services),
            partial(self._answered, feed),
            partial(self._failed, feed),
            group="run",
        )

    def _answered(self, feed: RunFeed, answer: RunFeed) -> None:
        feed.busy = False
        feed.take(answer)
        if feed is self._feed and not self.typing:
            self.session.run_id = self.session.run_id or feed.run_id
            self.repaint()
        if feed is self._feed and answer.more:
            self.ask()

    def _failed(self, feed: RunFeed, error: PlannerError) -> None:
        feed.busy, feed.asked, feed.error = False, True, error
        self.repaint()

    # ---- changing the run -------------------------------------------------------------------

    @property
    def at_work(self) -> RunView | None:
        """The run, where it is one that could be changed."""
        view = self._feed.view
        if view is None or over(view.summary.state) or resumable(view.summary):
            return None
        return view

    def do_override(self) -> None:
        """Change the run at work, once it was seen what that would do."""
        view = self.at_work
        if view is None:
            self.notify("There is no run at work here that could be changed.")
            return
        from planner.tui.overriding import ask_to_override

        ask_to_override(self, view)

    def await_change(self, command: str) -> None:
        """A change was asked for: say what comes of it as soon as that is known."""
        self._awaited = command
        self.ask()

    def tell_outcome(self, view: RunView) -> None:
        """Say what came of a change that was asked for here, once."""
        if self._awaited is None:
            return
        from planner.tui.overriding import outcome_told

        if outcome_told(self, view, self._awaited):
            self._awaited = None

    def do_copy(self) -> None:
        """Copy the run, its decisions included, as JSON."""
        if self._feed.view is None:
            self.notify("There is nothing to copy yet.")
            return
        from planner.wire.to_wire import run_document

        self.planner.copy_document(run_document(self._feed.view))
