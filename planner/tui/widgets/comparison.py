"""Runs or options side by side, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content

from planner.core.units import format_bytes, format_duration, format_money
from planner.services.api import Comparison, ComparisonRow
from planner.tui.text import Part, count, percent, row, wrap

LABEL_WIDTH = 16
CELL_WIDTH = 14


def comparison_lines(comparison: Comparison, width: int) -> Iterable[Content]:
    """A line for each quantity; a difference in the work is said first."""
    if not comparison.same_work:
        yield from wrap("! not the same work, so compare with care", width, style="bold $warn")
    for difference in comparison.differences:
        yield from wrap(f"! {difference}", width, style="$warn", indent="  ")
    shown = max(1, (width - LABEL_WIDTH - 10) // CELL_WIDTH)
    head: list[Part] = [" " * LABEL_WIDTH]
    for index, subject in enumerate(comparison.subjects[:shown]):
        head.append((f"{chr(ord('A') + index)} {subject}".rjust(CELL_WIDTH), "bold"))
    yield row(*head, ("    change", "bold $soft"))
    for item in comparison.rows:
        if any(value is not None for value in item.values):
            yield _line(item, shown)
    if comparison.same_work:
        yield row(("same work: same samples, epochs and data", "$soft"))


def _line(item: ComparisonRow, shown: int) -> Content:
    cells: list[Part] = [(item.name[: LABEL_WIDTH - 1].ljust(LABEL_WIDTH), "$soft")]
    cells += [value_text(value, item.unit).rjust(CELL_WIDTH) for value in item.values[:shown]]
    return row(*cells, _change(item))


def _change(item: ComparisonRow) -> Part:
    change = item.change
    if change is None or abs(change) < 0.005:
        return ("         =" if change is not None else "", "$soft")
    return (f"{change:>+8.0%} %".replace("%", "", 1), "bold")


def value_text(value: float | str | None, unit: str) -> str:
    """A value in the form of its unit."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if unit in ("s", "seconds"):
        return format_duration(value)
    if unit in ("usd", "USD", "$"):
        return format_money(value)
    if unit in ("bytes", "B"):
        return format_bytes(value)
    if unit in ("fraction", "%"):
        return percent(value, 1)
    if abs(value) < 10 and value != int(value):
        return f"{value:.3f}"
    return count(value) + (f" {unit}" if unit and len(unit) < 4 else "")
