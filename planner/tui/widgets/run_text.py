"""A run in lines: how far it is, what it measures, what it costs, how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from statistics import fmean

from textual.content import Content

from planner.core.plan import Decision
from planner.core.types import RunState
from planner.core.units import format_bytes, format_chance, format_duration, format_money
from planner.services.api import RunView, Series
from planner.tui.run_feed import over, resumable
from planner.tui.text import (
    Part,
    count,
    fit,
    money_interval,
    pair,
    passed,
    percent,
    probability_style,
    rate,
    row,
    state_mark,
    time_interval,
    time_of_day,
    wrap,
)
from planner.tui.widgets.bars import meter, progress, spark
from planner.tui.widgets.table import Cells, Column

LABEL = 10
ROOMY = 50
"""Width of a pane from which on names of what is logged get more room."""

DECISION_COLUMNS = (
    Column(key="at", label="time", width=8),
    Column(key="action", label="action", width=24, width_wide=30),
    Column(key="why", label="why", width=0),
    Column(key="expected", label="expected", width=14, wide=True),
    Column(key="measured", label="measured", width=14, wide=True),
    Column(key="mode", label="mode", width=9),
)


def decision_cells(decision: Decision) -> Cells:
    """A decision as a table row."""
    return (
        time_of_day(decision.at, seconds=True),
        decision.action,
        decision.why,
        decision.expected,
        decision.measured,
        decision.mode,
    )


def state_parts(view: RunView) -> Content:
    """`● running  r-7f3k digits  2 x cpu, batch 32`."""
    summary = view.summary
    mark, style = state_mark(summary.state)
    word = summary.state.replace("_", " ")
    return Content.assemble(
        (f"{mark} {word}", f"bold {style}"),
        (f"  {summary.id}", "bold"),
        (f"  {summary.name}", ""),
    )


def progress_lines(view: RunView, width: int) -> Iterable[Content]:
    """Steps, a bar, speed against the plan."""
    total = count(view.steps_total) if view.steps_total else "?"
    epoch = f"epoch {min(view.epoch + 1, int(view.epochs) or 1)}/{view.epochs:g}"
    left = pair("step", (f"{count(view.step)} / {total}", "bold"), width=LABEL)
    gap = " " * max(width - left.cell_length - len(epoch), 1)
    yield Content.assemble(left, (gap + epoch, "$soft"))
    done = percent(view.summary.progress, 1)
    bar = progress(view.summary.progress, max(width - 9, 5))
    yield Content.assemble(bar, (f"{done:>9}", "bold"))
    yield pair("samples/s", *_speed(view), width=LABEL)


def _speed(view: RunView) -> list[Part]:
    planned = view.plan.option.throughput_samples_per_s
    now, of_all = view.samples_per_s, ""
    seen = view.series.get("samples_per_s")
    if now is None and over(view.summary.state) and seen is not None and seen.values:
        now, of_all = fmean(seen.values), " mean"
    plan_text = (f"  plan {count(round(planned.p50))}", "$soft")
    if view.summary.adjusted:
        # The plan was about the run as it was at first.
        return ["-" if now is None else (f"{count(round(now))}{of_all}", "bold")]
    if now is None:
        return ["-", plan_text]
    change = now / planned.p50 - 1 if planned.p50 else 0.0
    inside = planned.p05 <= now <= planned.p95
    mark = "" if inside else " !"
    style = "$soft" if inside else "$warn"
    return [
        (f"{count(round(now))}{of_all}", "bold"),
        plan_text,
        (f"  {100 * change:+.0f} %{mark}", style),
    ]


def chart_lines(view: RunView, width: int) -> list[Content]:
    """Sparklines of what was measured, each with its last value."""
    lines = []
    column = LABEL if width < ROOMY else LABEL + 4
    for label, name in _charted(view):
        series = view.series.get(name)
        if series is None or not series.values:
            continue
        low, high = _range(name, series)
        value = _last(name, series)
        room = max(width - column - 9, 8)
        drawn = spark(series.at_s, series.values, room, low=low, high=high)
        lines.append(row((fit(label, column - 1) + " ", "$soft"), drawn, (f"{value:>9}", "bold")))
    return lines


def _charted(view: RunView) -> Iterable[tuple[str, str]]:
    named = (("gpu", "gpu"), ("cpu", "cpu"), ("memory", "memory_bytes"), ("loader", "loader_wait"))
    for label, name in named:
        if name in view.series:
            yield label, name
    known = {"samples_per_s", *(name for _, name in named)}
    # What is logged often says more as a line than what comes once.
    logged = sorted(set(view.series) - known, key=lambda n: (-len(view.series[n].values), n))
    for name in logged:
        yield name.replace("_", " "), name


def _range(name: str, series: Series) -> tuple[float | None, float | None]:
    if name in ("cpu", "gpu", "loader_wait"):
        return 0.0, max(1.0, *series.values)
    if name == "memory_bytes":
        return 0.0, max(series.values) * 1.1
    return None, None


def _last(name: str, series: Series) -> str:
    value = series.values[-1]
    if name in ("cpu", "gpu", "loader_wait"):
        return percent(value)
    if name == "memory_bytes":
        return format_bytes(value)
    return f"{value:.3f}" if abs(value) < 10 else count(value)


def checkpoint_line(view: RunView) -> Content:
    """When the last checkpoint was written, and its size."""
    at = view.last_checkpoint_at
    if at is None:
        words = "no checkpoint" if over(view.summary.state) else "no checkpoint yet"
        return pair("saved", (words, "$soft"), width=LABEL)
    size = f", {format_bytes(view.last_checkpoint_bytes)}" if view.last_checkpoint_bytes else ""
    return pair("saved", f"at {time_of_day(at, seconds=True)}{size}", width=LABEL)


def money_lines(view: RunView, width: int, height: int) -> list[Content]:
    """Spent and expected, elapsed and left, and the chances; the plan where there is room."""
    found = list(_money_lines(view, width))
    plan = [] if over(view.summary.state) else list(_plan_lines(view))
    return [*found, Content(), *plan] if plan and len(found) + len(plan) < height else found


def _plan_lines(view: RunView) -> Iterable[Content]:
    option = view.plan.option
    yield pair("plan", time_interval(option.total_s).strip(), width=LABEL)
    yield pair("", money_interval(option.cost_usd).strip(), width=LABEL)
    yield pair(
        "limits",
        f"{rate(view.plan.max_usd_per_h)} at most",
        (f"  {view.plan.retries} retries", "$soft"),
        width=LABEL,
    )


def _money_lines(view: RunView, width: int) -> Iterable[Content]:
    summary, goal = view.summary, view.plan.goal
    cap = summary.budget_usd
    of_cap = f"  of {format_money(cap)} cap" if cap is not None else "  no cap"
    yield pair("spent", (format_money(summary.spent_usd), "bold"), (of_cap, "$soft"), width=LABEL)
    if cap is not None:
        yield meter(summary.spent_usd, cap, width)
    if over(summary.state):
        yield from _ended_lines(view)
        return
    yield pair("at end", *_at_end(view), width=LABEL)
    yield pair(
        "rate", rate(view.usd_per_h), *_chance("P(≤cap)", view, view.p_budget, 0.95), width=LABEL
    )
    planned = summary.predicted_total_s
    elapsed = f"  of {format_duration(planned.p50)} planned"
    yield pair("elapsed", (passed(view.elapsed_s), "bold"), (elapsed, "$soft"), width=LABEL)
    yield pair("ends", *_ends(view, width), width=LABEL)
    if goal.deadline_s is not None or goal.deadline_at is not None:
        at = goal.deadline_at or summary.created_at + timedelta(seconds=goal.deadline_s or 0)
        yield pair("deadline", time_of_day(at), *_chance_on_time(view), width=LABEL)
    else:
        yield pair("deadline", ("none", "$soft"), width=LABEL)
    if view.attempts > 1:
        resumed = ("  from a checkpoint", "$soft")
        yield pair("attempt", f"{view.attempts}", resumed, width=LABEL)


def _chance_on_time(view: RunView) -> list[Part]:
    """The chance to be on time, of a run that gets on; what is so of one that stands still."""
    if view.summary.state is RunState.PAUSED:
        return [("  goes on meanwhile", "$soft")]
    return _chance("P(on time)", view, view.p_deadline, view.plan.goal.confidence)


def _chance(label: str, view: RunView, chance: float | None, wanted: float) -> list[Part]:
    """A chance, while the run gets on: what was told before says nothing of one that does not."""
    if chance is None or view.summary.state is not RunState.RUNNING:
        return []
    style = probability_style(chance, wanted)
    return [(f"  {label} ", "$soft"), (format_chance(chance), f"bold {style}")]


def _at_end(view: RunView) -> list[Part]:
    if view.summary.state is RunState.PAUSED:
        return [("nothing spent meanwhile", "$soft")]
    if resumable(view.summary):
        return [("nobody looks after it", "bold $warn")]
    if view.cost_at_end_usd is None:
        return [("after the first steps", "$soft")]
    return [money_interval(view.cost_at_end_usd).strip()]


def _ends(view: RunView, width: int) -> list[Part]:
    if resumable(view.summary):
        return [("p resumes it", "$warn")]
    if view.summary.state is RunState.STOPPING:
        return [("as soon as it has stopped", "$soft")]
    if view.eta_s is None:
        return [("after the first steps", "$soft")]
    low, high = view.eta_s.interval()
    if round(view.eta_s.p50) == 0:
        return [("any moment now" if round(high) == 0 else f"within {passed(high)}", "bold")]
    text = f"in {passed(view.eta_s.p50)}"
    span = f" [{passed(low)}-{passed(high)}]"
    at = view.summary.created_at + timedelta(seconds=view.elapsed_s + view.eta_s.p50)
    clock = f"   at {time_of_day(at, seconds=high < 600)}"
    fits = LABEL + len(text) + len(span) + len(clock) <= width
    return [(text, "bold"), (span, "$soft"), clock if fits else ""]


def _ended_lines(view: RunView) -> Iterable[Content]:
    """Predicted against real, once it is over."""
    summary = view.summary
    real = summary.total_s if summary.total_s is not None else view.elapsed_s
    yield pair("real time", (format_duration(real), "bold"), width=LABEL)
    yield pair("predicted", time_interval(summary.predicted_total_s).strip(), width=LABEL)
    yield pair("predicted", money_interval(summary.predicted_cost_usd).strip(), width=LABEL)
    if summary.state is RunState.DONE and summary.within_interval is not None:
        held = summary.within_interval
        word = ("✓ inside", "bold $good") if held else ("! outside", "bold $warn")
        yield pair("interval", word, " its 90 %", width=LABEL)
        late = ("! missed", "bold $bad") if summary.late else ("✓ in time", "bold $good")
        if view.plan.goal.deadline_s is not None:
            yield pair("deadline", late, width=LABEL)
    if summary.reason:
        yield from wrap(summary.reason, 36, style="$warn")
