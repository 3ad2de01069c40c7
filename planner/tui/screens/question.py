"""A question over the screen below. The first answer changes nothing, and has the focus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from planner.tui.text import row, wrap
from planner.tui.widgets.button import Button


@dataclass(frozen=True, slots=True)
class Answer:
    """One way to answer: its id, its words, and its key."""

    id: str
    text: str
    key: str


class QuestionScreen(ModalScreen[str]):
    """Asks, and is dismissed with the id of the answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,shift+tab,up", "app.focus_previous", show=False),
        Binding("right,tab,down", "app.focus_next", show=False),
    ]

    def __init__(self, title: str, text: Sequence[str], answers: Sequence[Answer]) -> None:
        super().__init__()
        self._title, self._text, self._answers = title, text, tuple(answers)

    def compose(self) -> ComposeResult:
        """The question, then the answers side by side."""
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(self._title, "bold")
            text = [line for item in self._text for line in (wrap(item, 64) if item else [""])]
            yield Static(Content("\n").join([*text, Content()]))
            with Horizontal(classes="buttons"):
                for answer in self._answers:
                    yield Button(answer.text, answer.id)
            keys = [row((a.key, "bold $key"), f" {a.text}") for a in self._answers]
            yield Static(Content("   ").join(keys), classes="hint")

    def on_mount(self) -> None:
        """The harmless answer has the focus."""
        self.query(Button).first().focus()

    def on_key(self, event: events.Key) -> None:
        """An answer's own key."""
        for answer in self._answers:
            if event.key == ("escape" if answer.key == "esc" else answer.key):
                event.stop()
                self.dismiss(answer.id)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """An answer was chosen."""
        self.dismiss(event.button_id)
