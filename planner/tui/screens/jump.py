"""Jump mode: a letter on every pane, and pressing it puts the focus there."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static


def targets(screen: Screen[object]) -> dict[str, Widget]:
    """What can be jumped to, by letter, from the top left to the bottom right."""
    seen = [w for w in screen.focus_chain if w.region.area > 0]
    seen.sort(key=lambda widget: (widget.region.y, widget.region.x))
    return dict(zip(ascii_lowercase, seen, strict=False))


class JumpScreen(ModalScreen[str]):
    """Dismissed with the letter that was pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+o", "dismiss", show=False)]

    def __init__(self, letters: Mapping[str, Widget]) -> None:
        super().__init__()
        self._letters = letters

    def compose(self) -> ComposeResult:
        """A label at the corner of each target."""
        for letter, widget in self._letters.items():
            label = Static(Content.styled(f" {letter} ", "bold reverse $key"), classes="jump")
            label.absolute_offset = widget.region.offset
            yield label

    def on_key(self, event: events.Key) -> None:
        """A letter jumps, anything else leaves."""
        event.stop()
        self.dismiss(event.key if event.key in self._letters else "")
