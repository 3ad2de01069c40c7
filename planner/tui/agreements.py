"""What a person agrees to before money may be spent or policy asks.

A launch, a resumed run, a raised limit, a changed job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from textual.content import Content

from planner.core.adjust import Expectation
from planner.core.consent import worst_case_usd
from planner.core.types import EstimateResult, Option
from planner.core.units import format_bytes, format_chance, format_duration, format_money
from planner.services.adjusttext import spending_text, worst_usd
from planner.services.api import RunView
from planner.tui.text import (
    batch_text,
    money_interval,
    pair,
    percent,
    place_text,
    rate,
    resources_text,
    row,
    short_duration,
    short_option,
    time_interval,
    time_of_day,
)
from planner.tui.widgets.change_text import expectation_lines, labelled

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the confirmation shows.

    Attributes:
        title: The question.
        note: What is so until it is answered.
        lines: What is agreed to.
        verb: The word on the button that agrees.
        worst_usd: Most that may be spent once it is agreed to, as far as that can be told.
        capped: Whether a cap sees to it that it is not more.
    """

    title: str
    note: str
    lines: tuple[Content, ...]
    verb: str
    worst_usd: float
    capped: bool


def ask_to_agree(app: PlannerApp, agreement: Agreement, agreed: Callable[[], None]) -> None:
    """Show what would be agreed to; go on once it was."""
    from planner.tui.screens.confirm import ConfirmScreen

    screen = ConfirmScreen(agreement, confirm_above_usd=app.session.confirm_above_usd)
    app.push_screen(screen, lambda answer: agreed() if answer else None)


# ---- launch --------------------------------------------------------------------------------------


def launch_agreement(estimate: EstimateResult, option: Option) -> Agreement:
    """To run an option."""
    return Agreement(
        title=f"Launch option {option.rank}?",
        note="nothing is running yet",
        lines=tuple(launch_lines(estimate, option)),
        verb="Launch",
        worst_usd=worst_case_usd(option, estimate.goal.budget_usd),
        capped=estimate.goal.budget_usd is not None,
    )


def launch_lines(estimate: EstimateResult, option: Option) -> Iterable[Content]:
    """Price, time, cost, cap, what happens at the cap and when it fails."""
    goal, job, price = estimate.goal, estimate.job, option.price
    yield row(
        (resources_text(option.resources, option.knobs), "bold"),
        f", batch {batch_text(option.knobs)}",
        (f"   {place_text(option.resources)}", "$soft"),
    )
    yield Content()
    source = {"contract": "as the job file says"}.get(price.source, price.source)
    yield _price_line(price.usd_per_h, f"{source}; dearer is refused")
    p_time = format_chance(option.p_deadline)
    wanted = f"   P(≤ {short_duration(goal.deadline_s)}) {p_time}" if goal.deadline_s else ""
    yield pair("time", time_interval(option.total_s).strip(), (wanted, "bold"))
    p_cost = format_chance(option.p_budget)
    cap = f"   P(≤ {format_money(goal.budget_usd)}) {p_cost}" if goal.budget_usd else ""
    yield pair("cost", money_interval(option.cost_usd).strip(), (cap, "bold"))
    yield pair(
        "memory",
        format_bytes(option.memory_bytes.p50),
        f"   P(out of memory) {format_chance(option.p_oom)}",
    )
    yield _stops_at(goal.budget_usd)
    every = short_duration(job.checkpoint_interval_s)
    yield pair("failures", f"starts again {job.retries} times", f"  loses at most {every}")
    yield pair("controller", "guarded", ("  watches cap and deadline", "$soft"))
    if not option.feasible:
        reason = option.reasons[0].text if option.reasons else "it does not meet the goal"
        yield row(("! not feasible: ", "bold $bad"), reason)


def _price_line(usd_per_h: float, note: str) -> Content:
    if usd_per_h == 0:
        return pair("price", "free", ("   the job file names no price", "$soft"))
    return pair("price", rate(usd_per_h), (f"   {note}", "$soft"))


def _stops_at(budget_usd: float | None) -> Content:
    if budget_usd is None:
        return pair("stops at", ("no cap is set", "bold $warn"))
    return pair("stops at", format_money(budget_usd), "  checkpoint, then release")


# ---- resume --------------------------------------------------------------------------------------


def resume_agreement(view: RunView, now: datetime) -> Agreement:
    """To let a run go on that spends nothing meanwhile."""
    return Agreement(
        title=f"Resume {view.summary.id}?",
        note="it spends nothing until then",
        lines=tuple(resume_lines(view, now)),
        verb="Resume",
        worst_usd=view.rest.worst_usd,
        capped=view.rest.limited,
    )


def resume_lines(view: RunView, now: datetime) -> Iterable[Content]:
    """Where it goes on, what it has cost, what it may still cost, and until when."""
    summary = view.summary
    yield row((short_option(summary.option_text), "bold"), (f"   {summary.name}", "$soft"))
    yield Content()
    saved = view.last_checkpoint_at
    source = f"the checkpoint of {time_of_day(saved, seconds=True)}" if saved else "its start"
    done = f"   at {percent(view.saved_progress)} of the work"
    yield pair("goes on", f"from {source}", (done, "$soft"))
    yield _price_line(view.plan.max_usd_per_h, "at most")
    cap = "" if summary.budget_usd is None else f"   of {format_money(summary.budget_usd)}"
    yield pair("spent", format_money(summary.spent_usd), (cap, "$soft"))
    yield pair("may spend", (view.rest.text, "bold"))
    yield _stops_at(summary.budget_usd)
    at = view.plan.goal.deadline_at
    if at is not None:
        left_s = (at - now).total_seconds()
        text = f"in {format_duration(left_s)}" if left_s > 0 else "has passed"
        style = "" if left_s > 0 else "bold $warn"
        yield pair("deadline", time_of_day(at), (f"   {text}", style))


# ---- adjust --------------------------------------------------------------------------------------


def adjust_agreement(view: RunView, expected: Expectation) -> Agreement:
    """To change a running job so that it may spend more, or as the job file wants to be asked."""
    lines = expectation_lines(expected, 66)
    if expected.dearer:
        peak = f"at up to {rate(expected.peak_usd_per_h)}, {spending_text(view, expected)}"
        lines += labelled("may spend", peak, 66, style="bold")
    if expected.asks:
        levers = ", ".join(expected.asks)
        lines += labelled("asked", f"the job file wants to be asked about {levers}", 66)
    return Agreement(
        title=f"Change {view.summary.id}?",
        note="it goes on as it is until then",
        lines=tuple(lines),
        verb="Change",
        worst_usd=worst_usd(view, expected) if expected.dearer else 0.0,
        capped=view.rest.limited,
    )


# ---- extend --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What is added to a run's limits; None leaves a limit as it is."""

    deadline_s: float | None = None
    budget_usd: float | None = None


def extend_agreement(view: RunView, extension: Extension, now: datetime) -> Agreement:
    """To raise a run's deadline or cap. A later deadline alone does not let it spend more."""
    more_usd = extension.budget_usd
    lines = [
        pair("deadline", raised_deadline(view, extension, now)),
        pair("cap", raised_cap(view, extension)),
        pair("spent", format_money(view.summary.spent_usd)),
    ]
    if more_usd is not None:
        rest = format_money(view.rest.worst_usd + more_usd)
        lines.append(pair("may spend", (f"{rest} more", "bold"), "  as of now"))
    return Agreement(
        title=f"Extend {view.summary.id}?",
        note="noted as a decision",
        lines=tuple(lines),
        verb="Extend",
        worst_usd=0.0 if more_usd is None else view.rest.worst_usd + more_usd,
        capped=view.rest.limited,
    )


def raised_deadline(view: RunView, extension: Extension, now: datetime) -> Content:
    """The deadline as it is, and as it would be."""
    at = view.plan.goal.deadline_at
    if at is None:
        return Content.styled("none", "$soft")
    later = None if extension.deadline_s is None else at + timedelta(seconds=extension.deadline_s)
    return _raised(_when(at, now), None if later is None else _when(later, now))


def raised_cap(view: RunView, extension: Extension) -> Content:
    """The cap as it is, and as it would be."""
    cap_usd, more_usd = view.plan.goal.budget_usd, extension.budget_usd
    if cap_usd is None:
        return Content.styled("none", "$soft")
    return _raised(
        format_money(cap_usd), None if more_usd is None else format_money(cap_usd + more_usd)
    )


def _raised(was: str, will_be: str | None) -> Content:
    if will_be is None:
        return row((f"{was}, as it is", "$soft"))
    return row((was, "$soft"), " → ", (will_be, "bold"))


def _when(at: datetime, now: datetime) -> str:
    """The time of day, with its day when that is not today."""
    local = at.astimezone()
    today = local.date() == now.astimezone().date()
    return time_of_day(at, seconds=True) if today else f"{local:%a %d %b %H:%M}"
