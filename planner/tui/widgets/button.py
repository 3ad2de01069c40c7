"""A button of one line, `[ Back ]`."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget


class Button(Widget, can_focus=True):
    """Pressed with enter, space or the mouse."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "press", show=False)]

    class Pressed(Message):
        """The button was pressed."""

        def __init__(self, button_id: str) -> None:
            super().__init__()
            self.button_id = button_id

    def __init__(self, text: str, id: str, *, disabled: bool = False) -> None:
        super().__init__(id=id, disabled=disabled)
        self._text = text

    def get_content_width(self, container: object, viewport: object) -> int:
        """As wide as its words."""
        return len(self._text) + 4

    def render(self) -> Content:
        """One line."""
        style = "$faint" if self.disabled else "bold reverse" if self.has_focus else "bold"
        return Content.styled(f"[ {self._text} ]", style)

    def action_press(self) -> None:
        """Say that it was pressed."""
        if not self.disabled:
            self.post_message(self.Pressed(self.id or ""))

    def on_click(self) -> None:
        """The mouse presses it too."""
        self.action_press()
