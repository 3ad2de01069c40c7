"""The table of options and the paragraph under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from planner.cli.render import bold, terminal_width
from planner.cli.tables import money_range, table, time_range
from planner.core import explain
from planner.core.job import Goal
from planner.core.types import EstimateResult, Option
from planner.core.units import format_chance, format_duration, format_money

_INDENT = "     "


def estimate_text(result: EstimateResult, *, show_all: bool, limit: int | None) -> str:
    """What `planner estimate` shows to a person."""
    lines = [_title(result)]
    shown = [o for o in result.options if show_all or _worth_showing(o, result)]
    cut = shown if limit is None else shown[:limit]
    if cut:
        lines += ["", *_rows(cut, result)]
    hidden = len(result.options) - len(cut)
    if hidden:
        lines.append(f"{hidden} more, refused or worse in all respects: --all shows each, and why")
    if result.options:
        lines += ["", *explain.why(result.options, result.recommendation)]
    else:
        lines += _probe_lines(result)
    if next_probe := explain.next_probe_text(result):
        lines.append(next_probe)
    return "\n".join(lines)


def _title(result: EstimateResult) -> str:
    goal, samples = result.goal, result.work.samples
    ok = sum(probe.state == "ok" for probe in result.probes)
    parts = [
        f"{result.job.name}",
        *([f"{samples} samples x {result.work.epochs:g} epochs"] if samples else []),
        *goal_words(goal, result.scored_at),
        f"{ok} of {len(result.probes)} probes ok, {format_money(result.probe_cost_usd)} spent now",
        result.id,
    ]
    return "   ".join(parts)


def goal_words(goal: Goal, now: datetime | None = None) -> list[str]:
    """Deadline in both forms, what is left of it at `now`, and budget; empty without a goal."""
    words = []
    if goal.deadline_s is not None:
        at = f" ({goal.deadline_at:%H:%M} UTC{_left(goal, now)})" if goal.deadline_at else ""
        words.append(f"deadline {format_duration(goal.deadline_s)}{at}")
    elif goal.deadline_at is not None:
        words.append(f"deadline {goal.deadline_at:%Y-%m-%d %H:%M} UTC")
    if goal.budget_usd is not None:
        words.append(f"budget {format_money(goal.budget_usd)}")
    return words


def _left(goal: Goal, now: datetime | None) -> str:
    """What probing left of the deadline, where it took a part that counts."""
    if now is None or goal.deadline_at is None or goal.deadline_s is None:
        return ""
    left_s = (goal.deadline_at - now).total_seconds()
    if goal.deadline_s - left_s < 0.01 * goal.deadline_s:
        return ""
    return f", {format_duration(max(left_s, 0.0))} left"


def _worth_showing(option: Option, result: EstimateResult) -> bool:
    if option.id == result.recommendation.option_id:
        return True
    if any(o.feasible for o in result.options):
        return option.feasible and option.on_front
    return option.on_front


def _rows(options: Sequence[Option], result: EstimateResult) -> list[str]:
    """The table; what a narrow terminal has no columns for follows below each option."""
    columns = _columns(result)
    width = terminal_width()
    below: list[_Column] = []
    while True:
        head = [column.head for column in columns]
        lines = table(head, [[column.cell(option) for column in columns] for option in options])
        spare = [column for column in columns if column.spare]
        if width is None or not spare or max(map(len, lines)) <= width:
            break
        columns.remove(last := max(spare, key=lambda column: column.spare))
        below.insert(0, last)
    rows = [lines[0]]
    for line, option in zip(lines[1:], options, strict=True):
        rows.append(bold(line) if line.startswith(">") else line)
        if below:
            rows.append(_INDENT + "   ".join(c.said(option) for c in below if c.cell(option)))
    return rows


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; of those with a `spare` number the highest goes first on a narrow terminal."""

    head: str
    cell: Callable[[Option], str]
    spare: int = 0

    def said(self, option: Option) -> str:
        """The cell where it has no head above it."""
        return f"{self.head} {self.cell(option)}".strip()


def _columns(result: EstimateResult) -> list[_Column]:
    goal, pick = result.goal, result.recommendation.option_id
    columns = [
        _Column("", lambda o: ">" if o.id == pick else ""),
        _Column("id", lambda o: o.id),
        _Column("option", explain.label),
    ]
    if goal.deadline_s is not None or goal.deadline_at is not None:
        columns.append(_Column("P(time)", lambda o: format_chance(o.p_deadline)))
    if goal.budget_usd is not None:
        columns.append(_Column("P(cost)", lambda o: format_chance(o.p_budget), spare=1))
    return [
        *columns,
        _Column("time 50 % [90 %]", lambda o: time_range(o.total_s)),
        _Column("cost 50 % [90 %]", lambda o: money_range(o.cost_usd)),
        _Column("$/h", lambda o: format_money(o.price.usd_per_h), spare=3),
        _Column("evidence", lambda o: o.evidence, spare=4),
        _Column("", _note, spare=2),
    ]


def _note(option: Option) -> str:
    if option.reasons:
        return ", ".join(reason.code for reason in option.reasons)
    if option.dominated_by is not None:
        return f"dominated by {option.dominated_by}"
    return "*" if option.on_front else ""


def _probe_lines(result: EstimateResult) -> list[str]:
    """What was tried in vain. Why it failed is told as an error."""
    rows = [
        (p.id, p.state, f"{p.resources.workers} x {p.knobs.micro_batch}") for p in result.probes
    ]
    return ["", *table(("probe", "state", "workers x batch"), rows)] if rows else []
