"""A bordered box of text that knows how to say that it is empty, waiting or failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from textual.content import Content
from textual.widget import Widget

from planner.core.errors import PlannerError
from planner.tui.text import error_parts, lines, wrap

MessageKind = Literal["empty", "loading"]
Maker = Callable[[int, int], Iterable[Content | str]]


def message_parts(kind: MessageKind, text: str, hint: str | None, width: int) -> list[Content]:
    """What a pane says instead of its content: what is so, and what to do about it."""
    mark = "·" if kind == "empty" else "…"
    found = wrap(f"{mark} {text}", width, indent="  ")
    if hint:
        found += wrap(f"  {hint}", width, style="$soft", indent="  ")
    return found


class Speaking:
    """Holds what a pane says while it has nothing to show; None once it has."""

    _said: tuple[MessageKind, str, str | None] | PlannerError | None = None

    def say_nothing(self) -> None:
        """Back to the content."""
        self._said = None

    def say(self, kind: MessageKind, text: str, hint: str | None = None) -> None:
        """Show these words in place of the content."""
        self._said = (kind, text, hint)
        self._repaint()

    def fail(self, error: PlannerError) -> None:
        """Show what went wrong and what to do, in place of the content."""
        self._said = error
        self._repaint()

    @property
    def speaks(self) -> bool:
        """Whether words stand in place of the content."""
        return self._said is not None

    def spoken(self, width: int) -> list[Content]:
        """The words, wrapped."""
        if self._said is None:
            return []
        if isinstance(self._said, PlannerError):
            return error_parts(self._said, width)
        kind, text, hint = self._said
        return message_parts(kind, text, hint, width)

    def _repaint(self) -> None:
        """Draw again."""


class Pane(Speaking, Widget):
    """A titled box of lines, or of what a function makes of its size."""

    def __init__(
        self, title: str = "", *, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(id=id, classes=f"pane {classes or ''}")
        self._lines: Sequence[Content | str] = ()
        self._maker: Maker | None = None
        self.head(title)

    def head(self, title: str | Content, note: str = "") -> None:
        """Title in the upper edge, a note at the right of it in the lower one."""
        wanted = Content.styled(title, "bold") if isinstance(title, str) else title
        if self.border_title != wanted:
            self.border_title = wanted
        end = Content.styled(note, "$soft")
        if self.border_subtitle != end:
            self.border_subtitle = end

    def show(self, content: Iterable[Content | str]) -> None:
        """Show these lines; nothing is drawn when they are the same as before."""
        new = tuple(content)
        if self._said is None and self._maker is None and _same(new, self._lines):
            return
        self._lines, self._maker = new, None
        self.say_nothing()
        self._repaint()

    def draw(self, maker: Maker) -> None:
        """Show what this makes of the pane's width and height, now and when its size changes."""
        self._maker = maker
        self.say_nothing()
        self._repaint()

    def render(self) -> Content:
        """The lines that fit; the last one says how many do not."""
        width, height = self.content_size
        if self.speaks:
            content: list[Content | str] = [*self.spoken(width)]
        elif self._maker is not None:
            content = list(self._maker(width, height))
        else:
            content = list(self._lines)
        if len(content) > height > 0:
            hidden = len(content) - height + 1
            content = [*content[: height - 1], Content.styled(f"… {hidden} more lines", "$soft")]
        return lines(
            (line if isinstance(line, Content) else Content(line)).truncate(width, ellipsis=True)
            for line in content
        )

    def _repaint(self) -> None:
        if self.is_attached:
            self.refresh()


def _same(a: Sequence[Content | str], b: Sequence[Content | str]) -> bool:
    return len(a) == len(b) and all(
        x.is_same(y) if isinstance(x, Content) and isinstance(y, Content) else x == y
        for x, y in zip(a, b, strict=True)
    )
