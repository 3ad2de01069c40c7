"""A change of a running job in words: what is expected, what is in force, what came of it.

The command line and the terminal app tell it in these words; each lays them out in its own way.
"""

from __future__ import annotations

from dataclasses import replace

from planner.core.adjust import (
    Adjustment,
    Expectation,
    InForce,
    interval_text,
    pass_samples,
    place_name,
)
from planner.core.types import TERMINAL_STATES, RunState
from planner.core.units import format_duration, format_money
from planner.services.api import RunView


def how_text(expected: Expectation) -> str:
    """How it is made: `in flight`, or by relaunch and why; empty when there is nothing to do."""
    if expected.how == "relaunch":
        return f"by relaunch: {expected.why}"
    return "in flight" if expected.how == "in_flight" else ""


def expectation_rows(expected: Expectation) -> tuple[tuple[str, str], ...]:
    """What a change is expected to do: labels and texts. Empty when there is nothing to do."""
    if expected.how == "nothing":
        return ()
    was, then = format_money(expected.usd_per_h_before), format_money(expected.usd_per_h)
    rows = [("rate", _rate(expected)), ("price", f"{was}/h -> {then}/h")]
    if expected.peak_usd_per_h > max(expected.usd_per_h, expected.usd_per_h_before):
        rows.append(("meanwhile", f"{format_money(expected.peak_usd_per_h)}/h: both are held"))
    if expected.left_before_s is not None and expected.left_s is not None:
        left = f"{format_duration(expected.left_before_s)} -> {format_duration(expected.left_s)}"
        rows.append(("left", left))
    before_usd, after_usd = expected.cost_at_end_before_usd, expected.cost_at_end_usd
    if before_usd is not None and after_usd is not None:
        cost = f"{format_money(before_usd)} -> {format_money(after_usd)} in the end"
        rows.append(("cost", cost))
    if expected.stall_s is not None and expected.downtime_s is not None:
        done = f"about {max(1.0, expected.downtime_s):.0f} s until it is done"
        rows.append(("downtime", f"{expected.stall_s:.1f} s from step to step, {done}"))
    return (*rows, *(("note", note) for note in expected.notes))


def _rate(expected: Expectation) -> str:
    band, before = expected.samples_per_s, expected.samples_per_s_before
    was = "-" if before is None else f"{before:.0f}"
    if band is None:
        return f"{was} samples/s now; nothing tells what it will be"
    if band.lo == band.hi == before:
        return f"{was} samples/s, as it is now"
    return f"{was} -> {band.mid:.0f} samples/s [{band.lo:.0f} - {band.hi:.0f}]   {expected.basis}"


def worst_usd(view: RunView, expected: Expectation) -> float:
    """Most that a dearer change lets the run spend: what its cap leaves, or the rest, as dearer."""
    rest = view.rest
    if rest.limited:
        return rest.worst_usd
    dearer = max(1.0, expected.peak_usd_per_h / (expected.usd_per_h_before or 1.0))
    return max(rest.worst_usd * dearer, _more_usd(expected) or 0.0)


def spending_text(view: RunView, expected: Expectation) -> str:
    """What the run may still spend once it is changed, as it is asked for."""
    more_usd = _more_usd(expected)
    if view.rest.limited or more_usd is None:
        return view.rest.text
    return replace(view.rest, expected_usd=more_usd).text


def _more_usd(expected: Expectation) -> float | None:
    """The rest of the run at the new price; None where nothing tells how long it is."""
    return None if expected.left_s is None else expected.left_s / 3600 * expected.usd_per_h


def asks_text(expected: Expectation) -> str:
    """Why it is asked about, though it may cost no more; only where it has such levers."""
    levers = expected.asks
    are = "is" if len(levers) == 1 else "are"
    return f"{', '.join(levers)} {are} not in allow of the job's [adjust]"


def batch_parts(now: InForce, crew: int = 0) -> tuple[str, ...]:
    """`micro-batch 32 x 2`, `global batch 64`; nothing where batches are not known.

    Args:
        now: What is in force.
        crew: How many workers train now; 0 where that is not known.
    """
    knobs = now.knobs
    if not knobs.micro_batch:
        return ()
    samples = pass_samples(knobs, crew or now.workers)
    return (
        f"micro-batch {samples} x {knobs.accumulation}",
        f"global batch {knobs.global_batch}",
    )


def in_force_parts(view: RunView) -> tuple[str, ...]:
    """What a run works with now, once something in it was changed."""
    now = view.in_force
    if now is None or not view.adjustments:
        return ()
    others = view.crew and view.crew != tuple(range(now.workers))
    crew = f" (number {', '.join(map(str, view.crew))})" if others else ""
    there = place_name(now.resources)
    place = f" at {there}" if there != place_name(view.plan.option.resources) else ""
    return (
        f"{now.workers} worker{'s' * (now.workers != 1)}{place}{crew}",
        *batch_parts(now, len(view.crew)),
        f"loader workers {now.knobs.loader_workers}",
        f"memory {now.memory}",
        f"checkpoint interval {interval_text(now)}",
    )


def outcome_parts(change: Adjustment) -> tuple[str, ...]:
    """How far a change is, and what came of it."""
    state = change.state.replace("_", " ")
    if change.state != "done":
        if not change.text:
            return (state,)
        return (change.text,) if change.text.startswith(f"{state}:") else (state, change.text)
    parts = [state]
    if change.step is not None:
        parts.append(f"step {change.step}")
    if change.stall_s is not None:
        parts.append(f"stall {change.stall_s:.2f} s")
    if change.downtime_s is not None:
        parts.append(f"{format_duration(change.downtime_s)} from request to first step")
    if change.lost_samples is not None:
        again = f", {change.redone_samples} again" if change.redone_samples else ""
        parts.append(f"{change.lost_samples} samples lost{again}")
    if change.samples_per_s is not None:
        was = change.samples_per_s_before
        before = "" if was is None else f"{was:.0f} -> "
        parts.append(f"{before}{change.samples_per_s:.0f} samples/s")
    return tuple(parts)


def unsettled_parts(view: RunView) -> tuple[str, str, str]:
    """Why a change is not made by itself any more, what to do about it, and the error's code."""
    run = view.summary
    state = run.state.value.replace("_", " ")
    if run.state in (RunState.DONE, RunState.CANCELLED):
        ended = f"the run is {state}: the change was not made"
        return ended, f"planner status {run.id} tells more", "adjust.not_done"
    resume = f"planner resume {run.id} goes on, with the change"
    if run.state is RunState.STOPPED_BY_CAP:
        resume = f"planner extend {run.id} --budget +..., then {resume}"
    if run.state is RunState.PAUSED or run.state in TERMINAL_STATES:
        return f"the run is {state}: the change is not made yet", resume, "adjust.not_yet"
    return "the supervisor is gone: nobody sees to the change", resume, "adjust.not_yet"
