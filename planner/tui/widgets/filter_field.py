"""The field that `/` opens over a list or a log; enter closes it and the filter stays."""

from __future__ import annotations

from textual import on
from textual.widgets import Input


class FilterField(Input):
    """Hidden until it is opened.

    Args:
        placeholder: What can be typed, while nothing is.
        home: What has the focus once the field is closed, as a selector.
    """

    def __init__(self, placeholder: str, *, home: str) -> None:
        super().__init__(id="filter", placeholder=placeholder, classes="hidden")
        self._home = home

    @property
    def in_use(self) -> bool:
        """Whether it is open, or filters."""
        return bool(self.value) or not self.has_class("hidden")

    def open(self) -> None:
        """Show it, to be typed into."""
        self.remove_class("hidden")
        self.focus()

    @on(Input.Submitted)
    def close(self) -> None:
        """Hide it; what was typed goes on filtering."""
        self.add_class("hidden")
        self.screen.query_one(self._home).focus()

    def drop(self) -> None:
        """Hide it, and filter no more."""
        self.value = ""
        self.close()
