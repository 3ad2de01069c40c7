"""A screen around one table whose rows are marked, sorted and reversed."""

from __future__ import annotations

from typing import ClassVar

from planner.tui.screens.base import PlannerScreen
from planner.tui.widgets.table import Table


class ListingScreen(PlannerScreen):
    """What Options and History share.

    Attributes:
        SORTED_BY: What the rows can be sorted by, in words; the first one at first.
    """

    SORTED_BY: ClassVar[tuple[str, ...]] = ()

    _sort = 0
    _reversed = False

    @property
    def sorted_by(self) -> str:
        """What the rows are sorted by."""
        return self.SORTED_BY[self._sort]

    def marked_keys(self) -> list[str]:
        """Keys of the marked rows, in the table's order."""
        table = self.query_one(Table)
        return [key for key in table.keys if key in table.marked]

    def do_mark(self) -> None:
        """Mark the row."""
        self.query_one(Table).toggle_mark()

    def do_sort(self) -> None:
        """Sort by the next quantity."""
        self._sort = (self._sort + 1) % len(self.SORTED_BY)
        self.repaint()

    def do_reverse(self) -> None:
        """Reverse the order."""
        self._reversed = not self._reversed
        self.repaint()
