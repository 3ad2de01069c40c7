"""The confirmation: everything that is agreed to, with the focus on Back."""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.core.consent import is_amount
from planner.core.units import format_money
from planner.tui.agreements import Agreement
from planner.tui.text import row
from planner.tui.widgets.button import Button


class ConfirmScreen(ModalScreen[bool]):
    """Dismissed with True only when what it shows was agreed to.

    Up to `confirm_above_usd` a `y` is enough; above it the amount has to be typed.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "answer(False)", show=False),
        Binding("left,shift+tab,up", "app.focus_previous", show=False),
        Binding("right,tab,down", "app.focus_next", show=False),
    ]

    def __init__(self, agreement: Agreement, *, confirm_above_usd: float) -> None:
        super().__init__()
        self._agreement = agreement
        self._limit_usd = confirm_above_usd
        self._typed = agreement.worst_usd > confirm_above_usd

    def compose(self) -> ComposeResult:
        """What is agreed to, then the two answers."""
        agreement = self._agreement
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(agreement.title, "bold")
            box.border_subtitle = Content.styled(agreement.note, "$soft")
            yield Static(Content("\n").join([*agreement.lines, Content()]))
            if self._typed:
                with Horizontal(classes="buttons"):
                    up_to = "up to " if agreement.capped else ""
                    yield Static(
                        f"It may cost {up_to}{format_money(agreement.worst_usd)}, more than "
                        f"{format_money(self._limit_usd)}: type that amount  "
                    )
                    yield Input(id="amount", placeholder="amount")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button(agreement.verb, "agree", disabled=self._typed)
            yield Static(self._hint(), classes="hint")

    def _hint(self) -> Content:
        verb = self._agreement.verb
        if self._typed:
            return row(
                ("esc", "bold $key"), " back   ", ("tab", "bold $key"), " to the amount   ",
                f"{verb} opens once it is typed",
            )  # fmt: skip
        return row(("esc", "bold $key"), " back   ", ("y", "bold $key"), f" {verb.lower()}")

    def on_mount(self) -> None:
        """The default never spends."""
        self.query_one("#back").focus()

    def on_key(self, event: events.Key) -> None:
        """`y` agrees, where that is enough."""
        if event.key == "y" and not self._typed:
            event.stop()
            self.dismiss(True)

    @on(Input.Changed)
    def _check(self, event: Input.Changed) -> None:
        agree = self.query_one("#agree", Button)
        agree.disabled = not is_amount(event.value, self._agreement.worst_usd)
        agree.refresh()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        agree = self.query_one("#agree", Button)
        if not agree.disabled:
            agree.focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back, or the one that agrees."""
        self.dismiss(event.button_id == "agree")

    def action_answer(self, agreed: bool) -> None:
        """Back."""
        self.dismiss(agreed)
