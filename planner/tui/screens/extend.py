"""By how much to raise a run's deadline or cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.core.errors import UnitError
from planner.core.units import format_money, parse_duration_s, parse_money_usd
from planner.services.api import RunView
from planner.tui.text import short_duration
from planner.tui.widgets.button import Button


@dataclass(frozen=True, slots=True)
class Extension:
    """What to add; None leaves it as it is."""

    deadline_s: float | None
    budget_usd: float | None


class ExtendScreen(ModalScreen[Extension]):
    """Two fields and two answers; what cannot be read keeps Extend shut."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, view: RunView) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        """Deadline, budget, Back and Extend."""
        goal = self._view.plan.goal
        deadline = short_duration(goal.deadline_s) if goal.deadline_s is not None else "none"
        budget = format_money(goal.budget_usd) if goal.budget_usd is not None else "none"
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(f"Extend {self._view.summary.id}", "bold")
            box.border_subtitle = Content.styled("noted as a decision", "$soft")
            with Horizontal(classes="field"):
                yield Static(f"deadline  now {deadline:<8}  add ")
                yield Input(id="more-time", placeholder="2h, 10m")
            with Horizontal(classes="field"):
                yield Static(f"cap       now {budget:<8}  add ")
                yield Input(id="more-money", placeholder="10")
            yield Static(id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button("Extend", "extend", disabled=True)

    def on_mount(self) -> None:
        """Typing can begin at once."""
        self.query_one("#more-time").focus()

    def _read(self) -> Extension:
        time_text = self.query_one("#more-time", Input).value.strip()
        money_text = self.query_one("#more-money", Input).value.strip()
        return Extension(
            parse_duration_s(time_text) if time_text else None,
            parse_money_usd(money_text) if money_text else None,
        )

    @on(Input.Changed)
    def _check(self) -> None:
        problem = self.query_one("#problem", Static)
        extend = self.query_one("#extend", Button)
        try:
            extension = self._read()
        except UnitError as error:
            problem.update(Content.styled(f"! {error.text}: {error.hint or ''}", "$bad"))
            extend.disabled = True
        else:
            problem.update("")
            extend.disabled = extension == Extension(None, None)
        extend.refresh()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        extend = self.query_one("#extend", Button)
        if extend.disabled:
            self.focus_next()
        else:
            extend.focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back or Extend."""
        self.dismiss(self._read() if event.button_id == "extend" else None)
