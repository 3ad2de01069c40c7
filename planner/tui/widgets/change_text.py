"""Changes of a running job in lines: what is in force, what is expected, what came of them."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content

from planner.core.adjust import (
    Adjustment,
    Expectation,
    InForce,
    interval_text,
    pass_samples,
    place_text,
)
from planner.core.units import format_duration
from planner.services.adjusttext import expectation_rows, how_text, in_force_parts
from planner.services.api import RunView
from planner.tui.text import count, pair, row, wrap
from planner.tui.widgets.run_text import LABEL

ROOMY_HEIGHT = 11
"""Height of a pane from which on it tells of more than the last change."""

_MARKS = {
    "waiting": ("· asked for", "$soft"),
    "going_on": ("· under way", "bold $key"),
    "done": ("✓ done", "bold $good"),
    "not_done": ("! not done", "bold $bad"),
    "refused": ("! refused", "bold $bad"),
}


def levers_in_force(now: InForce, crew: int = 0) -> dict[str, str]:
    """What each lever stands at, by its name."""
    knobs, known = now.knobs, now.knobs.micro_batch > 0
    micro = f"{pass_samples(knobs, crew or now.workers)} x {knobs.accumulation}"
    return {
        "workers": str(now.workers),
        "micro_batch": micro if known else "-",
        "loader_workers": str(knobs.loader_workers),
        "memory": now.memory,
        "move": place_text(now.resources),
        "checkpoint_interval": interval_text(now),
        "global_batch": str(knobs.global_batch) if known else "-",
    }


# ---- what is expected --------------------------------------------------------------------------


def expectation_lines(expected: Expectation, width: int) -> list[Content]:
    """What a change is expected to do; short rows share a line."""
    heading = "   ".join(part for part in (expected.what, how_text(expected)) if part)
    found = wrap(heading, width, style="bold", indent="  ")
    shared: Content | None = None
    for label, text in expectation_rows(expected):
        alone = row(pair(label, text), *_dearer(label, expected))
        beside = None if shared is None else row(shared, f"   {label} ", text)
        if beside is not None and label == "cost" and beside.cell_length <= width:
            found[-1] = shared = beside
        elif alone.cell_length <= width:
            found.append(alone)
            shared = alone
        else:
            found += labelled(label, text, width)
            shared = None
    return found


def labelled(label: str, text: str, width: int, *, style: str = "") -> list[Content]:
    """A label, then its text in as many lines as that takes."""
    first, *more = wrap(text, width - 11, style=style)
    return [pair(label, first), *(pair("", line) for line in more)]


def _dearer(label: str, expected: Expectation) -> tuple[tuple[str, str], ...]:
    if label != "price" or not expected.dearer:
        return ()
    return (("   more than was agreed to", "bold $warn"),)


# ---- what is, and what came of it ------------------------------------------------------------


def change_lines(view: RunView, width: int, height: int) -> list[Content]:
    """What is in force and the last changes, of a run in which something was changed."""
    roomy = height >= ROOMY_HEIGHT
    parts = in_force_parts(view)
    found: list[Content] = []
    if parts:
        room = width - LABEL
        first, *more = _packed(parts, room) if roomy else [_shortened(parts, room)]
        found = [pair("in force", first, width=LABEL), *(pair("", m, width=LABEL) for m in more)]
    for change in view.adjustments[-2 if roomy else -1 :]:
        found += _head(change, width)
        found += [row("  ", line) for line in _outcome(change, width - 2)]
    return found


def _head(change: Adjustment, width: int) -> list[Content]:
    """What the change is, and how far."""
    state = _MARKS[change.state]
    first, *more = _packed(change.what.split(", "), width - LABEL)
    what = [pair("change", (first, "bold"), width=LABEL)]
    what += [pair("", (line, "bold"), width=LABEL) for line in more]
    beside = row(what[-1], "  ", state)
    return [*what[:-1], beside] if beside.cell_length <= width else [*what, row("  ", state)]


def _packed(parts: Iterable[str], room: int) -> list[str]:
    """The parts in as few lines as hold them, none of them torn."""
    found: list[str] = []
    for part in parts:
        if found and len(found[-1]) + len(part) + 2 <= room:
            found[-1] += f", {part}"
        else:
            found.append(part)
    return found


def _shortened(parts: Iterable[str], room: int) -> str:
    """As many of the parts as one line holds, the first ones rather than the others."""
    shown = ""
    for part in parts:
        short = part.removeprefix("micro-batch ").replace(" x ", "x")
        longer = f"{shown}, {short}" if shown else short
        shown = longer if len(longer) <= room else shown
    return shown


def _outcome(change: Adjustment, width: int) -> list[Content]:
    """What came of it, or why nothing did: two lines at the most."""
    if change.state != "done":
        word = change.state.replace("_", " ")
        text = (change.text or "").removeprefix(f"{word}: ")
        return wrap(text, width, style="$soft")[:2] if text else []
    parts = [] if change.step is None else [f"step {count(change.step)}"]
    if change.stall_s is not None:
        parts.append(f"stall {change.stall_s:.2f} s")
    if change.downtime_s is not None:
        parts.append(f"downtime {format_duration(change.downtime_s)}")
    if change.lost_samples is not None:
        again = f", {count(change.redone_samples)} again" if change.redone_samples else ""
        parts.append(f"{count(change.lost_samples)} lost{again}")
    if change.samples_per_s is not None:
        was = change.samples_per_s_before
        before = "" if was is None else f"{count(round(was))} -> "
        parts.append(f"{before}{count(round(change.samples_per_s))} samples/s")
    return [Content.styled(line, "$soft") for line in _packed(parts, width)[:2]]
