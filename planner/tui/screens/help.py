"""The help overlay: every key of the screen below, and those that work everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from planner.tui.actions import SCOPE_TITLES, actions_of
from planner.tui.keymap import Keymap
from planner.tui.text import Part, row


class HelpScreen(ModalScreen[None]):
    """Keys of one screen. The key that opens it also closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]

    def __init__(self, tab: str, keymap: Keymap) -> None:
        super().__init__()
        self._tab, self._keymap = tab, keymap

    def compose(self) -> ComposeResult:
        """Keys, and the rules of the house."""
        box = VerticalScroll(Static(Content("\n").join(self._lines())), classes="box")
        box.border_title = f" keys on {SCOPE_TITLES.get(self._tab, self._tab)} "
        box.border_subtitle = " ? or esc closes "
        yield box

    def action_scroll(self, by: int) -> None:
        """Scroll by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def _lines(self) -> Iterable[Content]:
        left = [*self._section(self._tab)]
        right = [*self._section("app")]
        below = [*self._section("list")]
        left += [Content(), *below]
        for index in range(max(len(left), len(right))):
            a = left[index] if index < len(left) else Content()
            b = right[index] if index < len(right) else Content()
            yield row(a.truncate(36, ellipsis=True, pad=True), "  ", b)
        yield Content()
        yield Content.styled("tab and shift+tab go from pane to pane; a mouse works too.", "$soft")

    def _section(self, scope: str) -> Iterable[Content]:
        yield Content.styled(SCOPE_TITLES.get(scope, scope), "bold underline")
        for action in actions_of(scope):
            keys: list[Part] = [(" ".join(self._keymap.keys(action)).ljust(9), "bold $key")]
            yield row(*keys, " ", action.text)
