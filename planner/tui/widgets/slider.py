"""Values that are turned with left and right: a slider, and a choice of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from planner.tui.text import Part, row


class Slider(Widget, can_focus=True):
    """One of an ordered list of values, drawn as `├────●──┤ 90 %`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h,minus", "step(-1)", show=False),
        Binding("right,plus", "step(1)", show=False),
        Binding("shift+left", "step(-5)", show=False),
        Binding("shift+right", "step(5)", show=False),
        Binding("home", "step(-1000)", show=False),
        Binding("end", "step(1000)", show=False),
    ]

    class Changed(Message):
        """The value was turned."""

        def __init__(self, slider: Slider, value: float) -> None:
            super().__init__()
            self.slider, self.value = slider, value

        @property
        def control(self) -> Slider:
            """The slider itself, for `@on` selectors."""
            return self.slider

    def __init__(
        self,
        values: Sequence[float],
        value: float,
        form: Callable[[float], str],
        *,
        label: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._form, self._label = form, label
        self.set_values(values, value)

    def set_values(self, values: Sequence[float], value: float) -> None:
        """New steps, with `value` among them; says nothing to others."""
        self._values = tuple(sorted({*values, value}))
        self._index = self._values.index(value)
        if self.is_attached:
            self.refresh()

    @property
    def value(self) -> float:
        """The value that it stands at."""
        return self._values[self._index]

    def action_step(self, by: int) -> None:
        """Turn by so many steps."""
        new = min(max(self._index + by, 0), len(self._values) - 1)
        if new != self._index:
            self._index = new
            self.refresh()
            self.post_message(self.Changed(self, self.value))

    def render(self) -> Content:
        """One line."""
        label = self._label.ljust(11) if self._label else ""
        shown = self._form(self.value).rjust(6)
        width = max(self.size.width - len(label) - len(shown) - 4, 6)
        part = self._index / max(len(self._values) - 1, 1)
        before = round(part * (width - 1))
        style = "$pane-focus" if self.has_focus else "$chart"
        return row(
            (label, "$soft"),
            ("├" + "─" * before, style),
            ("●", f"bold {style}"),
            ("─" * (width - 1 - before) + "┤", "$faint"),
            " ",
            (shown, "bold reverse" if self.has_focus else "bold"),
        )


class Choice(Widget, can_focus=True):
    """One of a few words: `● cost  ○ time  ○ risk`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "step(-1)", show=False),
        Binding("right,space", "step(1)", show=False),
    ]

    class Changed(Message):
        """Another word was chosen."""

        def __init__(self, choice: Choice, value: str) -> None:
            super().__init__()
            self.choice, self.value = choice, value

        @property
        def control(self) -> Choice:
            """The choice itself, for `@on` selectors."""
            return self.choice

    def __init__(
        self, options: Sequence[str], value: str, *, label: str = "", id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._options, self._label = tuple(options), label
        self._index = self._options.index(value)

    @property
    def value(self) -> str:
        """The chosen word."""
        return self._options[self._index]

    @value.setter
    def value(self, value: str) -> None:
        self._index = self._options.index(value)
        self.refresh()

    def action_step(self, by: int) -> None:
        """Choose the next word, round and round."""
        self._index = (self._index + by) % len(self._options)
        self.refresh()
        self.post_message(self.Changed(self, self.value))

    def render(self) -> Content:
        """One line."""
        parts: list[Part] = [(self._label.ljust(11), "$soft")] if self._label else []
        for index, option in enumerate(self._options):
            chosen = index == self._index
            style = ("bold reverse" if self.has_focus else "bold") if chosen else "$soft"
            parts += [(f"{'●' if chosen else '○'} {option}", style), "  "]
        return row(*parts)
