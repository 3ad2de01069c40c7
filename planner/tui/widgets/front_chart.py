"""Options as pictures: a strip of time intervals, and the front of hours against dollars.

Both are drawn as text to the size of their pane, so that nothing has to be imported for them and
every label stands exactly where its bar does.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from planner.core.job import Goal
from planner.core.types import Option
from planner.core.units import format_duration
from planner.tui.text import row, short_duration, short_resources
from planner.tui.widgets.bars import Scale, canvas_lines, interval
from planner.tui.widgets.pane import Pane

LABEL_WIDTH = 14


def worth_drawing(options: Sequence[Option], pick: str | None, most: int) -> list[Option]:
    """The pick, the front, then the best of the rest; by rank, at most so many."""
    order = sorted(options, key=lambda o: (o.id != pick, not o.on_front, o.rank))
    return sorted(order[: max(most, 0)], key=lambda o: o.rank)


def time_scale(options: Sequence[Option], goal: Goal, width: int) -> Scale:
    """A scale that holds every interval, and the deadline when that is not far off."""
    low = min(o.total_s.p05 for o in options)
    high = max(o.total_s.p95 for o in options)
    if goal.deadline_s is not None and low / 2 < goal.deadline_s < 2 * high:
        low, high = min(low, goal.deadline_s), max(high, goal.deadline_s)
    return Scale(_start(low, high), high * 1.04, width)


def _start(low: float, high: float) -> float:
    """Where an axis begins: at zero, unless that would press everything to one side."""
    return 0.0 if low < 0.3 * high else low * 0.9


def strip_lines(
    options: Sequence[Option], goal: Goal, pick: str | None, width: int, height: int
) -> list[Content]:
    """One bar for each option, then the axis: `1 2 x cpu  ├──●───┤`."""
    shown = worth_drawing(options, pick, height - 1)
    if not shown:
        return []
    scale = time_scale(shown, goal, width - LABEL_WIDTH)
    lines = []
    for option in shown:
        total = option.total_s
        chosen = option.id == pick
        style = "$good" if chosen else "$chart" if option.feasible else "$soft"
        what = short_resources(option.resources, option.knobs)
        label = f"{'◆' if chosen else ' '}{option.rank:>2} {what}"
        bar = interval(scale, total.p05, total.p50, total.p95, limit=goal.deadline_s, style=style)
        cut = Content.styled(label, "bold" if chosen else "").truncate(
            LABEL_WIDTH - 1, ellipsis=True, pad=True
        )
        lines.append(row(cut, " ", bar))
    lines.append(row(" " * LABEL_WIDTH, _axis(scale, goal)))
    return lines


def _axis(scale: Scale, goal: Goal) -> Content:
    """Times under the bars; the deadline under its mark."""
    cells = [" "] * scale.width
    deadline = goal.deadline_s
    inside = deadline is not None and deadline <= scale.high
    marks = [(0, short_duration(scale.low) if scale.low else "0")]
    if inside and deadline is not None:
        marks.append((scale.column(deadline), f"deadline {short_duration(deadline)}"))
    for part in (0.25, 0.5, 0.75, 1.0):
        value = scale.low + part * (scale.high - scale.low)
        marks.append((round(part * (scale.width - 1)), format_duration(value)))
    if deadline is not None and not inside:
        marks[-1] = (scale.width - 1, f"deadline {short_duration(deadline)} is far off →")
    # The deadline and the ends first: what does not fit beside them is left out.
    for where, text in sorted(marks, key=lambda m: ("deadline" not in m[1], m[0])):
        _put(cells, where, text)
    return Content.styled("".join(cells), "$soft")


def front_lines(
    options: Sequence[Option], goal: Goal, pick: str | None, width: int, height: int
) -> list[Content]:
    """Time upwards against cost to the right; bars are 90 % intervals of the cost."""
    left = 8
    rows, columns = height - 2, width - left - 1
    shown = worth_drawing(options, pick, max(rows - 1, 1))
    if not shown or rows < 3 or columns < 20:
        return []
    times = time_scale(shown, goal, rows)
    costs = _cost_scale(shown, goal, columns)
    canvas = [[(" ", "")] * columns for _ in range(rows)]
    _limits(canvas, times, costs, goal)
    labels: dict[int, str] = {}
    by_time = sorted(shown, key=lambda o: -o.total_s.p50)
    wanted = [rows - 1 - times.column(option.total_s.p50) for option in by_time]
    for option, line in zip(by_time, _apart(wanted, rows), strict=True):
        labels[line] = format_duration(option.total_s.p50)
        _bar(canvas[line], costs, option, chosen=option.id == pick)
    lines = []
    for index, drawn in enumerate(canvas_lines(canvas)):
        label = labels.get(index, "")
        lines.append(row((f"{label:>{left - 1}}", "$soft"), ("│", "$faint"), drawn))
    lines.append(row(" " * (left - 1), ("└" + "─" * columns, "$faint")))
    lines.append(row(" " * left, _cost_axis(costs, goal)))
    return lines


Canvas = list[list[tuple[str, str]]]


def _cost_scale(options: Sequence[Option], goal: Goal, width: int) -> Scale:
    low, high = min(o.cost_usd.p05 for o in options), max(o.cost_usd.p95 for o in options)
    if goal.budget_usd is not None and goal.budget_usd < 2 * high:
        high = max(high, goal.budget_usd)
    start = _start(low, high)
    # Room on the right for the label behind the last bar.
    return Scale(start, start + (high - start) * 1.25 or 1.0, width)


def _limits(canvas: Canvas, times: Scale, costs: Scale, goal: Goal) -> None:
    rows, columns = len(canvas), len(canvas[0])
    if goal.deadline_s is not None and times.low <= goal.deadline_s <= times.high:
        line = canvas[rows - 1 - times.column(goal.deadline_s)]
        text = f" deadline {short_duration(goal.deadline_s)}"
        for column in range(columns):
            line[column] = ("┄", "$warn")
        line[columns - len(text) :] = [(c, "$warn") for c in text]
    if goal.budget_usd is not None and costs.low <= goal.budget_usd <= costs.high:
        column = costs.column(goal.budget_usd)
        for line in canvas:
            line[column] = ("┊", "$warn")


def _apart(wanted: Sequence[int], rows: int) -> list[int]:
    """Rows as near as can be to those wanted, one each and in the same order."""
    lines: list[int] = []
    for line in wanted:
        lines.append(max(line, lines[-1] + 1) if lines else line)
    limit = rows - 1
    for index in range(len(lines) - 1, -1, -1):
        lines[index] = min(lines[index], limit)
        limit = lines[index] - 1
    return lines


def _bar(line: list[tuple[str, str]], costs: Scale, option: Option, *, chosen: bool) -> None:
    style = "$good" if chosen else "$chart" if option.feasible else "$soft"
    low, middle, high = (
        costs.column(value)
        for value in (option.cost_usd.p05, option.cost_usd.p50, option.cost_usd.p95)
    )
    for column in range(low, high + 1):
        line[column] = ("─", style)
    if high > low:
        line[low], line[high] = ("├", style), ("┤", style)
    line[middle] = ("●" if option.on_front else "○", f"bold {style}")
    text = f" {option.rank}{' pick' if chosen else ''}"
    if high + len(text) < len(line):
        line[high + 1 : high + 1 + len(text)] = [(c, f"bold {style}") for c in text]


def _cost_axis(scale: Scale, goal: Goal) -> Content:
    cells = [" "] * scale.width
    far = goal.budget_usd is not None and goal.budget_usd > scale.high
    if far:
        note = f"budget ${goal.budget_usd:g} is far off →"
        cells[scale.width - len(note) :] = note
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = scale.low + part * (scale.high - scale.low)
        digits = 4 if scale.high < 0.1 else 2 if scale.high < 100 else 0
        text = f"${value:.{digits}f}"
        _put(cells, round(part * (scale.width - 1)), text)
    return Content.styled("".join(cells), "$soft")


def _put(cells: list[str], where: int, text: str) -> None:
    """Write a text around a column, unless something stands there or right beside it."""
    start = min(max(where - len(text) // 2, 0), len(cells) - len(text))
    near = cells[max(start - 2, 0) : start + len(text) + 2]
    if start >= 0 and all(cell == " " for cell in near):
        cells[start : start + len(text)] = text


class FrontChart(Pane):
    """Options drawn as a strip or as the front, whichever was asked for."""

    def picture(
        self, options: Sequence[Option], goal: Goal, pick: str | None, *, full: bool
    ) -> None:
        """Draw these options."""
        if full:
            self.head("front", "time ↑ against cost →   ● on the front   bars hold 90 %")
        else:
            self.head("time", "bars hold 90 %   ┊ deadline   v shows the front")
        made = front_lines if full else strip_lines
        self.draw(
            lambda width, height: made(options, goal, pick, width, height) or ["no room to draw"]
        )
