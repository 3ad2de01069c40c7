"""A log that follows its end until one scrolls up, filters, and finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from planner.services.api import LogLine
from planner.tui.actions import bindings_of
from planner.tui.text import row, time_of_day
from planner.tui.widgets.pane import Speaking

_TROUBLE = re.compile(r"\b(error|exception|traceback|failed|killed|out of memory)\b", re.IGNORECASE)


class LogView(Speaking, ScrollView, can_focus=True):
    """Lines of a run; only those on screen are rendered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of("list", "filter", "next", "previous"),
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("pagedown,ctrl+d", "page(1)", show=False),
        Binding("pageup,ctrl+u", "page(-1)", show=False),
        Binding("home,g", "move(-1000000)", show=False),
        Binding("end,G,f", "move(1000000)", show=False),
    ]

    def __init__(self, title: str = "log", *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._title = title
        self._all: Sequence[LogLine] = ()
        self._shown: list[LogLine] = []
        self._filter = ""
        self._ranks = self._timed = False
        self._following = True
        self._head()

    def _head(self) -> None:
        self.border_title = Content.styled(self._title, "bold")
        notes = [f"filter: {self._filter}"] if self._filter else []
        notes.append("following" if self._following else "f follows again")
        self.border_subtitle = Content.styled("   ".join(notes), "$soft")

    def show(self, lines: Sequence[LogLine]) -> None:
        """Show these lines; stays at the end when it was there."""
        if lines is self._all:
            return
        self._all = lines
        self.say_nothing()
        self._timed = any(line.at is not None for line in lines)
        self._ranks = len({line.rank for line in lines if line.rank is not None}) > 1
        self._apply()

    def set_filter(self, text: str) -> None:
        """Show only lines that contain a text; an empty one shows all."""
        self._filter = text.strip()
        self._following = True
        self._apply()

    def _apply(self) -> None:
        wanted = self._filter.lower()
        self._shown = [line for line in self._all if wanted in line.text.lower()]
        self.virtual_size = Size(self.size.width, len(self._shown))
        if self._following:
            # Forced, since a scroll bar that has yet to appear would stop it.
            self.scroll_end(animate=False, force=True, x_axis=False)
        self._head()
        self.refresh()

    def on_resize(self) -> None:
        """The end stays in view."""
        self.call_after_refresh(self._apply)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whoever scrolls up stops it from following; the end starts it again."""
        super().watch_scroll_y(old_value, new_value)
        self._following = new_value >= self.max_scroll_y
        self._head()

    def action_move(self, by: int) -> None:
        """Scroll by lines."""
        self.scroll_relative(y=by, animate=False)

    def action_page(self, by: int) -> None:
        """Scroll by a screenful."""
        self.action_move(by * max(self.size.height - 1, 1))

    def find(self, by: int) -> bool:
        """Scroll to the next (or previous) line that tells of trouble; False when there is none."""
        here = int(self.scroll_offset.y)
        where = [i for i, line in enumerate(self._shown) if _TROUBLE.search(line.text)]
        ahead = [i for i in where if (i > here if by > 0 else i < here)]
        if not ahead:
            return False
        self.scroll_to(y=ahead[0] if by > 0 else ahead[-1], animate=False)
        return True

    def _repaint(self) -> None:
        if self.is_attached:
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line: time, who speaks, and what."""
        width = self.size.width
        if self.speaks:
            said = self.spoken(width - 2)
            content = row(" ", said[y]) if y < len(said) else Content()
        else:
            index = y + int(self.scroll_offset.y)
            content = self._line(self._shown[index]) if index < len(self._shown) else Content()
        strips = Visual.to_strips(
            self, content.truncate(width, ellipsis=True), width, 1, self.visual_style
        )
        return strips[0] if strips else Strip.blank(width)

    def _line(self, line: LogLine) -> Content:
        # A job's own lines carry no time, unless a recording knows it.
        at = f"{time_of_day(line.at, seconds=True)} " if line.at else " " * 9 * self._timed
        rank = f"{line.rank}: " if self._ranks and line.rank is not None else ""
        text = line.text.replace("\t", "    ")
        if line.source == "planner":
            body = row(("planner: ", "$key"), text)
        else:
            body = Content.styled(text, "$bad" if _TROUBLE.search(text) else "")
        return row(" ", (at + rank, "$soft"), body)
