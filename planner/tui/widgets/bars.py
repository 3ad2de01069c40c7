"""Bars, sparklines and interval strips, drawn as text. Every function is pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from textual.content import Content

from planner.tui.text import Part

SPARK_LEVELS = "▁▂▃▄▅▆▇"
"""Heights of a spark cell. The full block is left out, so that rows above another do not fuse."""

_SHADES = ("$chart-low", "$chart-mid", "$chart-high")


def progress(fraction: float, width: int, style: str = "$chart") -> Content:
    """A bar that is filled to `fraction`."""
    done = min(max(round(fraction * width), 0), width)
    return Content.assemble(("━" * done, style), ("─" * (width - done), "$faint"))


def meter(value: float, limit: float, width: int, *, warn_at: float = 0.8) -> Content:
    """Something used up, of what there is: turns to warning, then to bad, near the limit."""
    fraction = value / limit if limit > 0 else 0.0
    style = "$bad" if fraction >= 0.95 else "$warn" if fraction >= warn_at else "$good"
    return progress(fraction, width, style)


def resample(
    at: Sequence[float], values: Sequence[float], width: int
) -> list[tuple[float, float] | None]:
    """Peak and mean of the values in each of `width` equal spans of time; None where none is."""
    if not values or width <= 0:
        return []
    start, end = at[0], at[-1]
    span = (end - start) or 1.0
    cells: list[list[float]] = [[] for _ in range(width)]
    for when, value in zip(at, values, strict=False):
        cells[min(int((when - start) / span * width), width - 1)].append(value)
    return [(max(cell), sum(cell) / len(cell)) if cell else None for cell in cells]


def spark(
    at: Sequence[float],
    values: Sequence[float],
    width: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Content:
    """A sparkline: the height of a cell is its peak, its colour its mean.

    Fewer values than cells fill from the left, one cell each, so that a young run does not look
    like an old one. `low` and `high` fix the scale; by default it is that of the values.
    """
    width = max(width, 0)
    used = min(width, len(values))
    cells = resample(at, values, used)
    bottom = min(values, default=0.0) if low is None else low
    top = max(values, default=1.0) if high is None else high
    span = (top - bottom) or 1.0
    parts: list[Part] = []
    last = (bottom, bottom)
    for cell in cells:
        peak, mean = last = cell or last
        level = min(max((peak - bottom) / span, 0.0), 1.0)
        shade = min(max((mean - bottom) / span, 0.0), 1.0)
        glyph = SPARK_LEVELS[round(level * (len(SPARK_LEVELS) - 1))]
        parts.append((glyph, _SHADES[min(int(shade * len(_SHADES)), len(_SHADES) - 1)]))
    parts.append(" " * (width - used))
    return Content.assemble(*parts)


class Scale:
    """Maps values to columns, so that bars and their axis agree."""

    def __init__(self, low: float, high: float, width: int) -> None:
        self.low, self.high, self.width = low, max(high, low + 1e-9), max(width, 2)

    def column(self, value: float) -> int:
        """The column of a value, held at the edges."""
        part = (value - self.low) / (self.high - self.low)
        return min(max(round(part * (self.width - 1)), 0), self.width - 1)


def interval(
    scale: Scale,
    low: float,
    middle: float,
    high: float,
    *,
    limit: float | None = None,
    style: str = "$chart",
) -> Content:
    """A 90 % interval `├──●───┤` with a limit drawn through it as `┊`."""
    cells = [" "] * scale.width
    styles = [""] * scale.width
    if limit is not None and limit <= scale.high:
        where = scale.column(limit)
        cells[where], styles[where] = "┊", "$warn"
    left, mid, right = (scale.column(v) for v in (low, middle, high))
    for column in range(left, right + 1):
        cells[column], styles[column] = "─", style
    if right > left:
        cells[left], cells[right] = "├", "┤"
    if limit is not None and left < scale.column(limit) < right and limit <= scale.high:
        cells[scale.column(limit)], styles[scale.column(limit)] = "┼", "$warn"
    cells[mid], styles[mid] = "●", f"bold {style}"
    return _runs(cells, styles)


def _runs(cells: Sequence[str], styles: Sequence[str]) -> Content:
    """Cells with styles, as few spans as possible."""
    parts: list[Part] = []
    starts = [i for i in range(len(cells)) if i == 0 or styles[i] != styles[i - 1]]
    for start, end in pairwise([*starts, len(cells)]):
        text = "".join(cells[start:end])
        parts.append((text, styles[start]) if styles[start] else text)
    return Content.assemble(*parts)


def canvas_lines(cells: Sequence[Sequence[tuple[str, str]]]) -> list[Content]:
    """Rows of (character, style) as lines."""
    return [_runs([c for c, _ in line], [s for _, s in line]) for line in cells]
