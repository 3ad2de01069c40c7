"""An option in cells and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.content import Content

from planner.core import explain
from planner.core.job import Goal
from planner.core.replicas import layout_text
from planner.core.types import EstimateResult, Option
from planner.core.units import DAY_S, format_bytes, format_chance, format_duration
from planner.tui.text import (
    batch_text,
    count,
    layout_mark,
    money_interval,
    pair,
    place_text,
    probability_style,
    rate,
    resources_text,
    short_duration,
    short_resources,
    time_interval,
    time_of_day,
    wrap,
)
from planner.tui.widgets.table import Cells, Column


def columns(goal: Goal, options: Sequence[Option] = ()) -> tuple[Column, ...]:
    """The table's columns; the chance to meet the deadline stands left of the intervals."""
    replicas = any(option.knobs.replica_workers > 1 for option in options)
    time_label, cost_label = "P(time)", "P(cost)"
    if goal.deadline_s is not None:
        # What is left would change while one reads; the time of day at which it ends does not.
        by_clock = goal.deadline_at is not None and goal.deadline_s < DAY_S
        end = time_of_day(goal.deadline_at) if by_clock else short_duration(goal.deadline_s)
        label = f"P(≤{end})"
        time_label = label if len(label) <= 9 else time_label
    if goal.budget_usd is not None:
        label = f"P(≤${goal.budget_usd:g})"
        cost_label = label if len(label) <= 8 else cost_label
    return (
        Column(key="#", label="#", width=2, align="right"),
        Column(key="front", label=" ", width=1),
        Column(key="option", label="option", width=8, wide=False),
        Column(key="option_wide", label="option", width=9, wide=True),
        Column(key="replica", label="rep.", width=4, wide=True, hidden=not replicas),
        Column(key="where", label="where", width=10, wide=True),
        Column(key="batch", label="batch", width=5, align="right"),
        Column(key="price", label="$/h", width=7, align="right", wide=True),
        Column(key="p_time", label=time_label, width=9, align="right"),
        Column(key="p_cost", label=cost_label, width=8, align="right", wide=True),
        Column(key="time", label="  time 50 [90 %]", width=21, wide=False),
        Column(key="cost", label="  cost 50 [90 %]", width=23, wide=False),
        Column(key="time_wide", label="  time 50 [90 %]", width=24, wide=True),
        Column(key="cost_wide", label="  cost 50 [90 %]", width=25, wide=True),
        Column(key="note", label="note", width=0, wide=True),
    )


def cells(option: Option, estimate: EstimateResult) -> Cells:
    """An option as a table row. What is infeasible or only a guess is drawn dim, and marked."""
    goal = estimate.goal
    picked = option.id == estimate.recommendation.option_id
    dim = "$soft" if not option.feasible or option.evidence == "prior" else ""
    mark = ("◆", "bold $good") if picked else ("*", "$key") if option.on_front else (" ", "")
    if not option.feasible:
        mark = ("x", "bold $bad")

    def cell(text: str, style: str = "") -> Content:
        return Content.styled(text, style or dim) if style or dim else Content(text)

    p_time, p_cost = option.p_deadline, option.p_budget
    return (
        cell(str(option.rank)),
        Content.styled(*mark),
        cell(short_resources(option.resources, option.knobs), "bold" if picked else ""),
        cell(resources_text(option.resources), "bold" if picked else ""),
        cell(layout_mark(option.knobs)),
        cell(place_text(option.resources)),
        cell(batch_text(option.knobs)),
        cell(price_text(option)),
        cell(format_chance(p_time), probability_style(p_time, goal.confidence)),
        cell(format_chance(p_cost), probability_style(p_cost, max(goal.confidence, 0.95))),
        cell(time_interval(option.total_s)),
        cell(money_interval(option.cost_usd)),
        cell(time_interval(option.total_s, wide=True)),
        cell(money_interval(option.cost_usd, wide=True)),
        _note(option, estimate, picked=picked),
    )


def price_text(option: Option) -> str:
    """Dollars an hour, with a mark when the price is old."""
    if option.price.source == "free":
        return "free"
    usd = option.price.usd_per_h
    return f"{usd:.{3 if usd < 1 else 2}f}" + ("s" if option.price.stale else "")


def _note(option: Option, estimate: EstimateResult, *, picked: bool) -> Content:
    if picked:
        return Content.styled("pick", "bold $good")
    if not option.feasible:
        codes = {reason.code for reason in option.reasons}
        word = next((word for code, word in _TROUBLE.items() if code in codes), "no")
        return Content.styled(word, "$bad")
    by = estimate.option(option.dominated_by) if option.dominated_by else None
    if by is not None:
        return Content.styled(f"by {by.rank}", "$soft")
    return Content.styled("front", "$key") if option.on_front else Content()


_TROUBLE = {"memory.oom": "oom", "deadline.missed": "late", "budget.exceeded": "cost"}
"""Why an option is not feasible, in a word."""


def named(text: str, estimate: EstimateResult) -> str:
    """A sentence that speaks of options by id, with their row numbers instead."""
    for option in estimate.options:
        long = f"{option.id} ({explain.label(option)})"
        short = (
            f"{resources_text(option.resources, option.knobs)}, batch {batch_text(option.knobs)}"
        )
        text = text.replace(long, f"option {option.rank} ({short})")
        text = text.replace(option.id, f"option {option.rank}")
    return text


def why_lines(estimate: EstimateResult, cursor: Option | None, width: int) -> Iterable[Content]:
    """Why the pick; or, with the cursor elsewhere, why not that one."""
    pick = estimate.option(estimate.recommendation.option_id or "")
    if cursor is not None and pick is not None and cursor.id != pick.id:
        yield from _why_not(estimate, cursor, pick, width)
        return
    first = True
    for sentence in explain.why(estimate.options, estimate.recommendation):
        style = "bold" if first else ""
        yield from wrap(named(sentence, estimate), width, style=style, indent="  ")
        first = False
    yield from warning_lines(estimate, width)


def warning_lines(estimate: EstimateResult, width: int) -> Iterable[Content]:
    """What the reader of an estimate should know, each with what to do about it."""
    for warning in estimate.warnings:
        yield from wrap(f"! {warning.text}", width, style="$warn", indent="  ")
        if warning.hint:
            yield from wrap(f"  {warning.hint}", width, style="$soft", indent="  ")


def _why_not(
    estimate: EstimateResult, cursor: Option, pick: Option, width: int
) -> Iterable[Content]:
    reason = _sentence(named(explain.why_not(cursor, pick), estimate))
    yield from wrap(reason, width, style="bold" if cursor.feasible else "bold $bad", indent="  ")
    flips = [flip for flip in estimate.recommendation.flips if flip.to == cursor.id]
    for flip in flips:
        yield from wrap(named(explain.flip_text(flip, cursor), estimate), width, indent="  ")
    if cursor.feasible and cursor.dominated_by is None and not flips:
        yield from wrap("Nothing near the goal would make it the pick.", width)
    yield from wrap(named(explain.bottleneck_text(cursor), estimate), width, style="$soft")


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else text + "."


def _replicas(option: Option) -> str:
    workers, layout = option.resources.workers, layout_text(option.knobs)
    return f"{option.knobs.replicas(workers)} replicas" if layout else f"{workers} workers"


def detail_lines(option: Option) -> Iterable[Content]:
    """Everything about one option that the table has no room for."""
    price = option.price
    knobs = option.knobs
    yield pair(
        "batch",
        f"{knobs.micro_batch} x {knobs.accumulation} x {_replicas(option)}",
        (f"  = {knobs.global_batch} a step", "$soft"),
    )
    if layout := layout_text(knobs):
        yield pair("replica", layout, (f"  {knobs.replica_workers} workers hold one", "$soft"))
    speed = option.throughput_samples_per_s
    yield pair(
        "samples/s",
        count(round(speed.p50)),
        (f"  [{count(round(speed.p05))} - {count(round(speed.p95))}]", "$soft"),
    )
    yield pair(
        "memory",
        format_bytes(option.memory_bytes.p50),
        (f"  at most {format_bytes(option.memory_bytes.p95)}", "$soft"),
    )
    yield pair("P(oom)", format_chance(option.p_oom), ("  runs out of memory", "$soft"))
    age = "" if price.age_s < 60 else f", {format_duration(price.age_s)} old"
    stale = ("  stale", "bold $warn") if price.stale else ""
    yield pair("price", rate(price.usd_per_h), (f"  {price.source}{age}", "$soft"), stale)
    marks = {"prior": ("  a guess", "$warn"), "transfer": ("  from another size", "$soft")}
    yield pair("evidence", option.evidence, marks.get(option.evidence, ""))
    interval = option.total_interval
    held = f"calibrated on {interval.n_calibration}" if interval.calibrated else "not calibrated"
    yield pair(
        "interval", f"{100 * interval.level:.0f} % {interval.method}", (f"  {held}", "$soft")
    )
    yield pair("limited by", _LIMITS[option.bottleneck])
    yield pair("option id", option.id)


_LIMITS = {
    "gpu": "computing",
    "loader": "waiting for data",
    "network": "exchanging gradients",
    "memory": "memory",
    "unknown": "not measured",
}
