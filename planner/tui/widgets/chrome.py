"""The line above and the line below every screen, and what is said when there is no room."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from planner.tui.actions import TABS, Action
from planner.tui.keymap import Keymap
from planner.tui.text import Part

MIN_WIDTH, MIN_HEIGHT = 80, 24


class TopBar(Widget):
    """Name, tabs with their keys, and what kind of session this is."""

    def __init__(self, active: str) -> None:
        super().__init__()
        self._active = active
        self._chips: tuple[tuple[str, str], ...] = ()

    def set_chips(self, *chips: tuple[str, str]) -> None:
        """Words at the right end, each with its style."""
        if chips != self._chips:
            self._chips = chips
            self.refresh()

    def render(self) -> Content:
        """One line; chips give way from the left when there is no room."""
        width = self.size.width
        gap = "   " if width >= 120 else " "
        parts: list[Part] = [(" planner ", "bold $key"), gap[1:]]
        for number, tab in enumerate(TABS, 1):
            active = tab == self._active
            style = "bold reverse $primary" if active else "$soft"
            label = f" {number} {tab.capitalize()} "
            link = Content.styled(label, style).stylize(f"@click=app.do('app.{tab}')")
            parts += [link, gap[2:]]
        left = Content.assemble(*parts)
        chips = list(self._chips)
        right = _chips(chips)
        while chips and left.cell_length + right.cell_length > width:
            chips.pop(0)
            right = _chips(chips)
        return Content.assemble(
            left, " " * max(width - left.cell_length - right.cell_length, 0), right
        )


def _chips(chips: Sequence[tuple[str, str]]) -> Content:
    return Content(" ").join(Content.styled(f"[{text}]", style) for text, style in chips)


class KeyBar(Widget):
    """What can be done here, with its keys; `Help` never falls off the edge."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: tuple[tuple[Action, str], ...] = ()
        self._keymap = Keymap()

    def offer(self, actions: Sequence[tuple[Action, str]], keymap: Keymap) -> None:
        """Actions and their words, the most important first."""
        if (tuple(actions), keymap) != (self._actions, self._keymap):
            self._actions, self._keymap = tuple(actions), keymap
            self.refresh()

    def render(self) -> Content:
        """One line of `key Word` pairs."""
        width = self.size.width
        items = [self._item(action, label) for action, label in self._actions]
        last = items.pop() if items else Content()
        room = width - last.cell_length - 1
        shown: list[Content] = []
        used = 1
        gap = 3 if width >= 120 else 2
        for item in items:
            if used + item.cell_length + gap > room:
                break
            shown.append(item)
            used += item.cell_length + gap
        left = Content.assemble(" ", Content(" " * gap).join(shown))
        fill = max(width - left.cell_length - last.cell_length - 1, 1)
        return Content.assemble(left, " " * fill, last, " ")

    def _item(self, action: Action, label: str) -> Content:
        keys = self._keymap.keys(action)
        # Only the word is a link: a link's colour would take the place of the key's.
        word = Content(label).stylize(f"@click=app.do('{action.name}')")
        return Content.assemble((keys[0] if keys else "-", "bold $key"), " ", word)


class TooSmall(Widget):
    """Stands in for the whole screen below 80 x 24."""

    def render(self) -> Content:
        """What size is needed, and what this one is."""
        width, height = self.app.size
        return Content.assemble(
            ("planner needs a larger window\n", "bold $warn"),
            f"\nThis one has {width} x {height} cells;\n{MIN_WIDTH} x {MIN_HEIGHT} are needed.\n",
            ("\nq leaves; runs go on.", "$soft"),
        )
