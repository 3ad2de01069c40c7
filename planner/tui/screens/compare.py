"""A comparison over the screen below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from planner.core.errors import PlannerError
from planner.services.api import Comparison
from planner.tui.text import error_parts
from planner.tui.widgets.comparison import comparison_lines

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp

WIDTH = 72


class CompareScreen(ModalScreen[None]):
    """Asks for a comparison and shows it.

    Args:
        names: What is compared: references, and what the screen below calls each.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,c,q,enter", "dismiss", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = dict(names)
        self._comparison: Comparison | None = None

    def compose(self) -> ComposeResult:
        """One box."""
        with Vertical(classes="box") as box:
            box.border_title = Content.styled("compare", "bold")
            box.border_subtitle = Content.styled("y copies as JSON   esc closes", "$soft")
            yield Static("… comparing", id="comparison")

    def on_mount(self) -> None:
        """Ask."""
        app = cast("PlannerApp", self.app)
        services = app.session.services
        app.call_service(
            lambda: services.compare(tuple(self._names)),
            self._show,
            self._fail,
            group="compare",
            owner=self,
        )

    def _show(self, comparison: Comparison) -> None:
        self._comparison = comparison
        content = Content("\n").join(list(comparison_lines(comparison, WIDTH, self._names)))
        self.query_one("#comparison", Static).update(content)

    def _fail(self, error: PlannerError) -> None:
        content = Content("\n").join(error_parts(error, WIDTH))
        self.query_one("#comparison", Static).update(content)

    def action_copy(self) -> None:
        """Copy the comparison as JSON."""
        if self._comparison is not None:
            from planner.wire.to_wire import comparison_document

            cast("PlannerApp", self.app).copy_document(comparison_document(self._comparison))
