"""Runs or options side by side, as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from textual.content import Content

from planner.core.types import RunState
from planner.core.units import format_bytes, format_chance, format_duration, format_money
from planner.services.api import Comparison, ComparisonRow
from planner.tui.text import Part, count, percent, rate, row, short_option, wrap

LABEL_WIDTH = 16
CHANGE_WIDTH = 9
_CELL = (14, 26)
"""Narrowest and widest column of values."""


def comparison_lines(
    comparison: Comparison, width: int, names: Mapping[str, str] = MappingProxyType({})
) -> Iterable[Content]:
    """A line for each quantity that differs, then what is the same; a difference in the work first.

    Subjects that do not fit into the width are left out, from the right. `names` says how to call
    a subject where that is not its reference.
    """
    if not comparison.same_work:
        yield from wrap("! not the same work, so compare with care", width, style="bold $warn")
    for difference in comparison.differences:
        yield from wrap(f"! {difference}", width, style="$warn", indent="  ")
    room = width - LABEL_WIDTH - CHANGE_WIDTH
    shown = max(1, min(len(comparison.subjects), room // _CELL[0]))
    cell = min(max(room // shown, _CELL[0]), _CELL[1])
    head: list[Part] = [" " * LABEL_WIDTH]
    for index, subject in enumerate(comparison.subjects[:shown]):
        name = f"{chr(ord('A') + index)} {names.get(subject, subject)}"
        head.append((name[: cell - 1].rjust(cell), "bold"))
    yield row(*head, ("change".rjust(CHANGE_WIDTH), "bold $soft"))
    known = [item for item in comparison.rows if _says_something(item)]
    known.sort(key=_importance)
    same = [item for item in known if _is_same(item)]
    for item in known:
        if item not in same:
            yield _line(item, shown, cell)
    alike = [f"{_name(item)} {value_text(item.values[0], item.unit)}" for item in same]
    if comparison.same_work:
        alike.insert(0, "the work")
    if alike:
        yield from wrap(f"the same: {', '.join(alike)}", width, style="$soft", indent="  ")


def _says_something(item: ComparisonRow) -> bool:
    """Not what nobody knows, and not that an estimate is an estimate."""
    return any(value not in (None, "estimate") for value in item.values)


def _importance(item: ComparisonRow) -> int:
    """What a person asks first comes first: how long, how dear, how good."""
    if item.name.startswith("metric "):
        return 3
    first = ("option", "time", "cost")
    return first.index(item.name) if item.name in first else 4


def _is_same(item: ComparisonRow) -> bool:
    return all(value == item.values[0] for value in item.values)


def _name(item: ComparisonRow) -> str:
    return item.name.removeprefix("metric ").replace("_", " ")


def _line(item: ComparisonRow, shown: int, cell: int) -> Content:
    cells: list[Part] = [(_name(item)[: LABEL_WIDTH - 1].ljust(LABEL_WIDTH), "$soft")]
    for value in item.values[:shown]:
        cells.append(value_text(value, item.unit)[: cell - 1].rjust(cell))
    return row(*cells, _change(item))


def _change(item: ComparisonRow) -> Part:
    change = item.change
    if change is None:
        return ""
    text = f"{100 * change:+.0f} %" if abs(change) >= 0.005 else "="
    if change >= 9.995:
        text = f"x {count(1 + change)}" if change < 9998 else "x > 9 999"
    return (text.rjust(CHANGE_WIDTH), "bold" if len(text) > 1 else "$soft")


def value_text(value: float | str | None, unit: str) -> str:
    """A value in the form of its unit."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("_", " ") if value in set(RunState) else short_option(value)
    form = _FORMS.get(unit)
    if form is not None:
        return form(value)
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 10 and value != int(value) else count(value)


_FORMS: dict[str, Callable[[float], str]] = {
    "s": format_duration,
    "usd": format_money,
    "usd_per_h": rate,
    "bytes": format_bytes,
    "fraction": percent,
    "probability": format_chance,
    "samples_per_s": lambda value: f"{count(round(value))}/s",
    "count": lambda value: f"{value:.0f}",
}
