"""The palette: every action, every run, every option and every theme, by fuzzy search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from planner.tui.actions import ACTIONS, SCOPE_TITLES, TABS
from planner.tui.text import money_interval, resources_text, time_interval

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp

Entry = tuple[str, str, Callable[[], None]]


class PlannerCommands(Provider):
    """Entries are words, a line of help, and what to do."""

    @property
    def planner(self) -> PlannerApp:
        """The app, by its own type."""
        return cast("PlannerApp", self.app)

    async def discover(self) -> Hits:
        """What is shown before anything is typed: the actions that work right here."""
        for text, note, run in self._actions():
            yield DiscoveryHit(text, run, help=note)

    async def search(self, query: str) -> Hits:
        """Everything that matches."""
        matcher = self.matcher(query)
        for text, note, run in self._all():
            score = matcher.match(text)
            if score > 0:
                yield Hit(score, matcher.highlight(text), run, help=note)

    def _all(self) -> Iterable[Entry]:
        yield from self._actions()
        yield from self._runs()
        yield from self._options()
        yield from self._themes()

    def _actions(self) -> Iterable[Entry]:
        tab = getattr(self.screen, "TAB", "")
        keymap = self.planner.session.keymap
        for action in ACTIONS.values():
            if action.scope not in (tab, "app"):
                continue
            keys = " ".join(keymap.keys(action))
            where = SCOPE_TITLES[action.scope] if action.scope in TABS else "Everywhere"
            run = partial(self.planner.action_do, action.name)
            yield action.text, f"{keys}   {where}", run

    def _options(self) -> Iterable[Entry]:
        shown = self.planner.session.shown
        for option in shown.options if shown else ():
            text = f"Option {option.rank}: {resources_text(option.resources, option.knobs)}"
            note = f"{time_interval(option.total_s)}  {money_interval(option.cost_usd)}"
            yield text, note, partial(self.planner.open_option, option.id)

    def _runs(self) -> Iterable[Entry]:
        for run in self.planner.session.known_runs:
            text = f"Run {run.id}: {run.name}, {run.state.replace('_', ' ')}"
            yield text, run.option_text, partial(self.planner.open_run, run.id)

    def _themes(self) -> Iterable[Entry]:
        for name in sorted(self.app.available_themes):
            yield f"Theme: {name}", "", partial(setattr, self.app, "theme", name)
