"""The help overlay: every key of the screen below, and those that work everywhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from planner.tui.actions import SCOPE_TITLES, TABS, Action, actions_of
from planner.tui.keymap import Keymap
from planner.tui.text import row

COLUMN = 34


class HelpScreen(ModalScreen[None]):
    """Keys of one screen. The key that opens it also closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]

    def __init__(self, tab: str, keymap: Keymap, bound: Collection[str]) -> None:
        """Args: `bound` holds the names of the actions that have a key where help was asked."""
        super().__init__()
        self._tab, self._keymap, self._bound = tab, keymap, frozenset(bound)

    def compose(self) -> ComposeResult:
        """One box."""
        with VerticalScroll(classes="box") as box:
            box.border_title = Content.styled(f"keys on {SCOPE_TITLES[self._tab]}", "bold")
            box.border_subtitle = Content.styled("? or esc closes", "$soft")
            yield Static(Content("\n").join(list(self._lines())))

    def action_scroll(self, by: int) -> None:
        """Scroll by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def _lines(self) -> Iterable[Content]:
        left = list(self._section(self._tab, actions_of(self._tab)))
        lists = [action for action in actions_of("list") if action.name in self._bound]
        if lists:
            left += [Content(), *self._section("list", lists)]
        right = list(self._section("app", actions_of("app")))
        for index in range(max(len(left), len(right))):
            a = left[index] if index < len(left) else Content()
            b = right[index] if index < len(right) else Content()
            yield row(a.truncate(COLUMN, ellipsis=True, pad=True), "  ", b)
        yield Content()
        yield Content.styled("tab, shift+tab: from pane to pane.  A mouse works too.", "$soft")

    def _section(self, scope: str, actions: Iterable[Action]) -> Iterable[Content]:
        yield Content.styled(SCOPE_TITLES[scope], "bold underline")
        tabs: list[str] = []
        for action in actions:
            keys = " ".join(self._keymap.keys(action))
            if action.scope == "app" and action.verb in TABS:
                tabs.append(keys)
                if action.verb == TABS[-1]:
                    keys = "1..6" if tabs == list("123456") else " ".join(tabs)
                    yield row((keys.ljust(9), "bold $key"), " Go to a tab")
                continue
            yield row((keys.ljust(9), "bold $key"), " ", action.text)
