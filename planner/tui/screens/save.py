"""Under which name to save the job file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.tui.widgets.button import Button


class SaveScreen(ModalScreen[Path]):
    """Dismissed with the file to write, in the folder of the one that is open.

    The paths in a job file count from its folder, so that it cannot be saved into another.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def compose(self) -> ComposeResult:
        """The name, Back and Save."""
        with Vertical(classes="box") as box:
            box.border_title = Content.styled("Save the job file", "bold")
            box.border_subtitle = Content.styled("with the goal of the form", "$soft")
            with Horizontal(classes="field"):
                yield Static("as  ")
                yield Input(self._path.name, id="file-name")
            yield Static(id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button("Save", "save")

    def on_mount(self) -> None:
        """Typing can begin at once."""
        self.query_one("#file-name").focus()

    def _target(self) -> Path | None:
        """The file that is named; None when that is no name of a file."""
        name = self.query_one("#file-name", Input).value.strip()
        if not name or name != Path(name).name or name.startswith("."):
            return None
        return self._path.parent / (name if name.endswith(".toml") else f"{name}.toml")

    @on(Input.Changed)
    def _check(self) -> None:
        target = self._target()
        words = "! a file name, without folders" if target is None else ""
        self.query_one("#problem", Static).update(Content.styled(words, "$bad"))
        save = self.query_one("#save", Button)
        save.disabled = target is None
        save.refresh()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        target = self._target()
        if target is not None:
            self.dismiss(target)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back or Save."""
        self.dismiss(self._target() if event.button_id == "save" else None)
