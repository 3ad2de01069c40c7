"""Plain text tables and values. Nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence

from planner.core.distribution import Distribution
from planner.core.units import format_duration, format_money

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of a table: two spaces between columns, `right` columns flush right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [_line(row, widths, right) for row in (head, *rows)]


def _line(row: Row, widths: Sequence[int], right: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if i in right else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def time_range(d: Distribution) -> str:
    """Median and 90 % interval of a duration: `5m18s [4m50s - 6m05s]`."""
    lo, hi = d.interval()
    return f"{format_duration(d.p50)} [{format_duration(lo)} - {format_duration(hi)}]"


def money_range(d: Distribution) -> str:
    """Median and 90 % interval of an amount: `$13.80 [$12.60 - $18.80]`."""
    lo, hi = d.interval()
    return f"{format_money(d.p50)} [{format_money(lo)} - {format_money(hi)}]"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, `-` when unknown."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def signed_percent(fraction: float | None) -> str:
    """A change as a percentage with its sign, empty when unknown."""
    return "" if fraction is None else f"{100 * fraction:+.1f} %"
