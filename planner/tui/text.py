"""How values look on screen: one place for the form of numbers, intervals and marks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from datetime import datetime

from textual.content import Content

from planner.core.distribution import Distribution
from planner.core.errors import PlannerError
from planner.core.replicas import layout_text
from planner.core.types import Knobs, ResourceConfig, RunState
from planner.core.units import format_bytes, format_duration, format_money

Part = str | Content | tuple[str, str]

__all__ = [
    "Part",
    "batch_text",
    "count",
    "error_parts",
    "fit",
    "format_bytes",
    "format_duration",
    "format_money",
    "lines",
    "money_interval",
    "pair",
    "passed",
    "percent",
    "place_text",
    "rate",
    "resources_text",
    "row",
    "short_duration",
    "short_option",
    "state_mark",
    "time_interval",
    "time_of_day",
    "wrap",
]


def row(*parts: Part) -> Content:
    """One line of differently styled parts."""
    return Content.assemble(*parts)


def pair(label: str, *value: Part, width: int = 11) -> Content:
    """A label in its column, then its value."""
    return Content.assemble((label.ljust(width), "$soft"), *value)


def lines(items: Iterable[Content | str]) -> Content:
    """Lines under each other."""
    return Content("\n").join(list(items))


def fit(text: str, width: int) -> str:
    """The text in exactly so many cells; what is cut off is marked."""
    if len(text) > width:
        return text[: max(width - 1, 0)] + "…" if width > 0 else ""
    return text.ljust(width)


def wrap(text: str, width: int, *, style: str = "", indent: str = "") -> list[Content]:
    """The text in lines of at most `width` cells."""
    found = textwrap.wrap(
        text, max(width, 8), subsequent_indent=indent, break_on_hyphens=False
    ) or [""]
    return [Content.styled(line, style) if style else Content(line) for line in found]


def short_duration(seconds: float) -> str:
    """A duration that a person typed or set: `10m`, not `10m00s`."""
    text = format_duration(seconds)
    for tail in ("h00m", "m00s", "d00h"):
        if text.endswith(tail):
            return text[: -len(tail) + 1]
    return text


def passed(seconds: float) -> str:
    """Time that has passed: whole seconds, as a clock shows it."""
    return f"{seconds:.0f}s" if seconds < 59.5 else format_duration(seconds)


def count(value: float) -> str:
    """A count with grouped thousands: `62 408`."""
    if abs(value) < 10 and value != int(value):
        return f"{value:.2f}"
    if abs(value) < 100 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}".replace(",", " ")


def percent(fraction: float | None, digits: int = 0) -> str:
    """A fraction as `27.7 %`."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def probability_style(value: float | None, wanted: float) -> str:
    """Good at or above what is wanted, bad under half of it."""
    if value is None:
        return "$soft"
    if value >= wanted:
        return "$good"
    return "$warn" if value >= wanted / 2 else "$bad"


def time_interval(value: Distribution, level: float = 0.9, *, wide: bool = False) -> str:
    """`5m18s [4m50s-6m05s]`."""
    low, high = value.interval(level)
    ends = (format_duration(low), format_duration(high))
    if wide:
        return f"{format_duration(value.p50):>6} [{ends[0]:>6} - {ends[1]:>6}]"
    return f"{format_duration(value.p50):>6} [{ends[0]}-{ends[1]}]"


def _decimals(usd: float) -> int:
    return 4 if usd < 0.1 else 2 if usd < 1000 else 0


def money_interval(value: Distribution, level: float = 0.9, *, wide: bool = False) -> str:
    """`$13.80 [12.60-18.80]`, all three with the same decimals."""
    low, high = value.interval(level)
    if high <= 0:
        return "$0.00"
    digits = _decimals(value.p50)
    middle = f"${value.p50:.{digits}f}"
    if wide:
        return f"{middle:>7} [{low:.{digits}f} - {high:.{digits}f}]"
    return f"{middle:>7} [{low:.{digits}f}-{high:.{digits}f}]"


def rate(usd_per_h: float) -> str:
    """A price of an hour: `$0.05/h`, without digits that say nothing."""
    if usd_per_h >= 1:
        return f"${usd_per_h:.2f}/h"
    return f"${usd_per_h:.4f}".rstrip("0").ljust(len("$0.00"), "0") + "/h"


def time_of_day(at: datetime | None, *, seconds: bool = False) -> str:
    """The machine's local time of day."""
    if at is None:
        return "-"
    return at.astimezone().strftime("%H:%M:%S" if seconds else "%H:%M")


def resources_text(resources: ResourceConfig, knobs: Knobs | None = None) -> str:
    """`2 x cpu`, or `4 x A10G on 2 nodes`; with knobs also `4 x A10G (tensor 2)`."""
    nodes = f" on {resources.nodes} nodes" if resources.nodes > 1 else ""
    layout = layout_text(knobs) if knobs else ""
    spread = f" ({layout})" if layout else ""
    return f"{resources.workers} x {resources.device}{spread}{nodes}"


def layout_mark(knobs: Knobs) -> str:
    """How a replica is spread over workers, for a table: `t2p4`; empty for one worker."""
    parts = (("t", knobs.tensor_parallel), ("p", knobs.pipeline_parallel))
    return "".join(f"{letter}{count}" for letter, count in parts if count > 1)


def short_resources(resources: ResourceConfig, knobs: Knobs) -> str:
    """`2 x cpu`; of workers that share replicas `4 x t2p2`, where there is no room for more."""
    mark = layout_mark(knobs)
    return f"{resources.workers} x {mark}" if mark else resources_text(resources)


def place_text(resources: ResourceConfig) -> str:
    """Where it is: `local cpu`, `aws us-east-1b`."""
    return f"{resources.runner} {resources.zone or resources.region or resources.pool}"


def batch_text(knobs: Knobs) -> str:
    """Micro-batch, and how many of them make up one optimiser step of a worker: `16x2`."""
    return f"{knobs.micro_batch}" + (f"x{knobs.accumulation}" if knobs.accumulation > 1 else "")


_STATE_MARKS: dict[RunState, tuple[str, str]] = {
    RunState.PLANNED: ("·", "$soft"),
    RunState.PROVISIONING: ("·", "$key"),
    RunState.RUNNING: ("●", "$good"),
    RunState.INTERRUPTED: ("!", "$warn"),
    RunState.PAUSED: ("=", "$warn"),
    RunState.STOPPING: ("-", "$warn"),
    RunState.DONE: ("✓", "$good"),
    RunState.FAILED: ("!", "$bad"),
    RunState.STOPPED_BY_CAP: ("!", "$warn"),
    RunState.CANCELLED: ("-", "$soft"),
}


def short_option(text: str) -> str:
    """A run's option in few cells: `2 x cpu local, 32`."""
    return text.replace(", micro-batch ", ", ")


def state_mark(state: RunState) -> tuple[str, str]:
    """A mark and its style; the state's word always stands beside it."""
    return _STATE_MARKS[state]


def error_parts(error: PlannerError, width: int) -> list[Content]:
    """An error as lines: what happened, then what to do."""
    found = wrap(f"! {error.text}", width, style="bold $bad", indent="  ")
    if error.hint:
        found += wrap(f"  {error.hint}", width, indent="  ")
    return found
