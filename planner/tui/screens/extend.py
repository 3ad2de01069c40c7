"""By how much to raise a run's deadline or cap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.core.errors import UnitError
from planner.core.units import parse_duration_s, parse_money_usd
from planner.services.api import RunView
from planner.tui.agreements import Extension, raised_cap, raised_deadline
from planner.tui.text import wrap
from planner.tui.widgets.button import Button


class ExtendScreen(ModalScreen[Extension]):
    """A field for each limit the run has; what cannot be read keeps `Go on` shut.

    It only asks by how much. What is asked for is confirmed after it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, view: RunView, now: datetime) -> None:
        super().__init__()
        self._view, self._now = view, now

    def compose(self) -> ComposeResult:
        """Deadline, cap, Back and Go on."""
        goal = self._view.plan.goal
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(f"Extend {self._view.summary.id}", "bold")
            box.border_subtitle = Content.styled("nothing has changed yet", "$soft")
            if goal.deadline_at is not None:
                yield from self._field("deadline", "more-time", "+20m")
            if goal.budget_usd is not None:
                yield from self._field("cap", "more-money", "+2")
            yield Static(id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button("Go on", "extend", disabled=True)

    def _field(self, label: str, name: str, placeholder: str) -> ComposeResult:
        with Horizontal(classes="field"):
            yield Static(f"{label:<10}add  ")
            yield Input(id=name, placeholder=placeholder)
            yield Static(id=f"{name}-raised")

    def on_mount(self) -> None:
        """Typing can begin at once."""
        self._say_what_would_be(Extension())
        self.query(Input).first().focus()

    def _read(self) -> Extension:
        """What the fields ask for. Raises `UnitError`."""
        texts = {field.id: field.value.strip() for field in self.query(Input)}
        return Extension(
            deadline_s=_more(texts.get("more-time"), parse_duration_s),
            budget_usd=_more(texts.get("more-money"), parse_money_usd, " USD"),
        )

    def _say_what_would_be(self, extension: Extension) -> None:
        raised = {
            "more-time": raised_deadline(self._view, extension, self._now),
            "more-money": raised_cap(self._view, extension),
        }
        for field in self.query(Input):
            self.query_one(f"#{field.id}-raised", Static).update(raised[field.id or ""])

    @on(Input.Changed)
    def _check(self) -> None:
        problem = self.query_one("#problem", Static)
        go_on = self.query_one("#extend", Button)
        try:
            extension = self._read()
        except UnitError as error:
            text = f"! {error.text}" + (f": {error.hint}" if error.hint else "")
            problem.update(Content("\n").join(wrap(text, 60, style="$bad", indent="  ")))
            extension = Extension()
        else:
            problem.update("")
        go_on.disabled = extension == Extension()
        self._say_what_would_be(extension)
        go_on.refresh()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        if self.query_one("#extend", Button).disabled:
            self.focus_next()
        else:
            self.dismiss(self._read())

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back, or on to the question."""
        self.dismiss(self._read() if event.button_id == "extend" else None)


def _more(text: str | None, parse: Callable[[str], float], unit: str = "") -> float | None:
    """How much is added; None for an empty field.

    Raises:
        UnitError: Without the plus that tells more from a new limit, or no such value.
    """
    if not text:
        return None
    if not text.startswith("+"):
        raise UnitError(
            f"{text} can mean {text}{unit} more, or {text}{unit} in all",
            hint=f"write +{text} to add {text}{unit}",
        )
    return parse(text.removeprefix("+"))
