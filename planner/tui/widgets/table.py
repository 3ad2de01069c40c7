"""A table that redraws only the lines that changed, with a cursor, marks and words when empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from planner.tui.actions import bindings_of
from planner.tui.text import fit
from planner.tui.widgets.pane import Speaking

Cell = str | Content
Cells = Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        width: Cells, without the gap to the next column; 0 takes what the others leave.
        width_wide: The same from 120 columns on; 0 for no difference.
        wide: Whether it is shown only from 120 columns on (True), only below (False), or always.
        drop: For `fit_columns`: where there is no room the highest goes first; 0 stays.
        hidden: Whether it is left out.
    """

    key: str
    label: str
    width: int
    width_wide: int = 0
    align: Literal["left", "right"] = "left"
    wide: bool | None = None
    drop: int = 0
    hidden: bool = False


class Table(Speaking, ScrollView, can_focus=True):
    """Rows by key. Cells of a row are asked for when the row is drawn, and kept until `show`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "cursor(1)", show=False),
        Binding("up", "cursor(-1)", show=False),
        Binding("pagedown,ctrl+d", "page(1)", show=False),
        Binding("pageup,ctrl+u", "page(-1)", show=False),
        Binding("home", "cursor(-1000000)", show=False),
        Binding("end", "cursor(1000000)", show=False),
    ]

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> Table:
            """The table itself, for `@on` selectors."""
            return self.table

    def __init__(
        self, columns: Sequence[Column], title: str = "", *, id: str | None = None
    ) -> None:
        super().__init__(id=id, classes="pane")
        self.columns = tuple(columns)
        self.marked: set[str] = set()
        self._keys: tuple[str, ...] = ()
        self._cells_of: Callable[[str], Cells] = lambda _key: ()
        self._kept: dict[str, tuple[Cell, ...]] = {}
        self._cursor = 0
        self.head(title)

    # ---- content ---------------------------------------------------------------------------

    def head(self, title: str, note: str = "") -> None:
        """Title in the upper edge, note in the lower one."""
        wanted, end = Content.styled(title, "bold"), Content.styled(note, "$soft")
        if self.border_title != wanted:
            self.border_title = wanted
        if self.border_subtitle != end:
            self.border_subtitle = end

    def show(self, keys: Sequence[str], cells_of: Callable[[str], Cells]) -> None:
        """Show these rows; the cursor stays on its row. Only lines that differ are drawn."""
        cursor_key = self.cursor_key
        new_keys = tuple(keys)
        moved = new_keys != self._keys or self.speaks
        self.say_nothing()
        self._keys, self._cells_of = new_keys, cells_of
        if cursor_key in new_keys:
            self._cursor = new_keys.index(cursor_key)
        self._cursor = min(self._cursor, max(len(new_keys) - 1, 0))
        self._kept = {key: cells for key, cells in self._kept.items() if not moved}
        if moved:
            self._resize_content()
            self.refresh()
        else:
            self._refresh_changed()
        if self.cursor_key != cursor_key and self.cursor_key is not None:
            self.post_message(self.Moved(self, self.cursor_key))

    def _refresh_changed(self) -> None:
        top = int(self.scroll_offset.y)
        height = max(self.size.height - 1, 0)
        for index, key in enumerate(self._keys):
            if not top <= index < top + height:
                self._kept.pop(key, None)
                continue
            cells = tuple(self._cells_of(key))
            if self._kept.get(key) != cells:
                self._kept[key] = cells
                self.refresh(Region(0, index - top + 1, self.size.width, 1))

    def _resize_content(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._keys) + 1)

    def _repaint(self) -> None:
        if self.is_attached:
            self.refresh()

    # ---- cursor ----------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, ...]:
        """The rows' keys, in their order."""
        return self._keys

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        return self._keys[self._cursor] if self._cursor < len(self._keys) else None

    def move_to(self, key: str) -> None:
        """Put the cursor on a row, where it exists."""
        if key in self._keys:
            self.action_cursor(self._keys.index(key) - self._cursor)

    def toggle_mark(self) -> None:
        """Mark or unmark the row under the cursor, and go on to the next."""
        if self.cursor_key is not None:
            self.marked ^= {self.cursor_key}
            self.action_cursor(1)
            self.refresh()

    def action_cursor(self, by: int) -> None:
        """Move the cursor."""
        if not self._keys:
            return
        new = min(max(self._cursor + by, 0), len(self._keys) - 1)
        if new == self._cursor:
            return
        self._cursor = new
        body = max(self.size.height - 1, 1)
        top = int(self.scroll_offset.y)
        if new < top:
            self.scroll_to(y=new, animate=False, force=True)
        elif new >= top + body:
            self.scroll_to(y=new - body + 1, animate=False, force=True)
        self.refresh()
        self.post_message(self.Moved(self, self._keys[new]))

    def action_page(self, by: int) -> None:
        """Move the cursor by a screenful."""
        self.action_cursor(by * max(self.size.height - 2, 1))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row that was clicked."""
        offset = event.get_content_offset(self)
        if offset is not None and offset.y > 0:
            self.action_cursor(offset.y - 1 + int(self.scroll_offset.y) - self._cursor)

    def on_resize(self) -> None:
        """The columns follow the width."""
        self._resize_content()

    # ---- drawing ---------------------------------------------------------------------------

    def _layout(self, width: int) -> list[tuple[Column, int]]:
        wide = self.app.size.width >= 120
        shown = [c for c in self.columns if not c.hidden and c.wide in (None, wide)]
        widths = [(wide and c.width_wide) or c.width for c in shown]
        rest = max(width - 2 - sum(widths) - len(shown) + 1, 0)
        share = rest // max(widths.count(0), 1)
        return [(c, w or share) for c, w in zip(shown, widths, strict=True)]

    def render_line(self, y: int) -> Strip:
        """The header, a row, or a line of what is said while there are no rows."""
        width = self.size.width
        if self.speaks:
            said = self.spoken(width)
            return self._strip(said[y] if y < len(said) else Content(), width)
        if y == 0:
            labels = [
                _place(Content.styled(c.label, "bold $soft"), w, c.align)
                for c, w in self._layout(width)
            ]
            return self._strip(Content.assemble("  ", Content(" ").join(labels)), width)
        index = y - 1 + int(self.scroll_offset.y)
        if index >= len(self._keys):
            return Strip.blank(width, self.rich_style)
        return self._strip(self._row(index, width), width, cursor=index == self._cursor)

    def _row(self, index: int, width: int) -> Content:
        key = self._keys[index]
        if key not in self._kept:
            self._kept[key] = tuple(self._cells_of(key))
        by_key = dict(zip((c.key for c in self.columns), self._kept[key], strict=False))
        cells = [_place(by_key.get(c.key, ""), w, c.align) for c, w in self._layout(width)]
        pointer = "›" if index == self._cursor else " "
        mark = "+" if key in self.marked else " "
        return Content.assemble(
            (pointer, "bold $pane-focus"),
            (mark, "bold $key"),
            Content(" ").join(cells),
        )

    def _strip(self, content: Content, width: int, *, cursor: bool = False) -> Strip:
        if cursor:
            style = "bold on $row-cursor" if self.has_focus else "on $row-cursor 60%"
            content = content.truncate(width, pad=True).stylize_before(style)
        strips = Visual.to_strips(
            self, content.truncate(width, ellipsis=True), width, 1, self.visual_style
        )
        return strips[0] if strips else Strip.blank(width)


class LetterTable(Table):
    """A table that `j` and `k` move in, for screens that need those letters for nothing else."""

    BINDINGS: ClassVar[list[BindingType]] = bindings_of("list", "down", "up")

    def do_down(self) -> None:
        """One row down."""
        self.action_cursor(1)

    def do_up(self) -> None:
        """One row up."""
        self.action_cursor(-1)


def _place(cell: Cell, width: int, align: str) -> Content:
    content = cell if isinstance(cell, Content) else Content(cell)
    content = content.truncate(width, ellipsis=True)
    missing = width - content.cell_length
    return content.pad_left(missing) if align == "right" else content.pad_right(missing)


LEAST_REST = 18
"""Cells that a column without a width of its own keeps before others are left out for it."""


def fit_columns(
    columns: Sequence[Column], rows: Sequence[Cells], table_width: int
) -> tuple[Column, ...]:
    """The columns as wide as what stands in them, without those that there is no room for.

    A column whose width is 0 takes what the others leave. Where there is room to spare, the others
    stand a cell further apart.
    """
    widths = {
        column.key: max([len(column.label), *(_length(row[i]) for row in rows)])
        for i, column in enumerate(columns)
    }
    room = table_width - 2
    shown = list(columns)

    def needed(rest: int, gap: int) -> int:
        own = (min(widths[c.key], rest) if c.width == 0 else widths[c.key] for c in shown)
        return sum(own) + gap * (len(shown) - 1)

    while needed(LEAST_REST, 1) > room and any(column.drop for column in shown):
        shown.remove(max(shown, key=lambda column: column.drop))
    spare = 1 if needed(table_width, 2) <= room else 0
    return tuple(
        replace(
            column,
            width=0 if column.width == 0 else widths[column.key] + spare,
            hidden=column not in shown,
        )
        for column in columns
    )


def _length(cell: Cell) -> int:
    return cell.cell_length if isinstance(cell, Content) else cell_len(cell)


__all__ = ["Cell", "Cells", "Column", "LetterTable", "Table", "fit", "fit_columns"]
