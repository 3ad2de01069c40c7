"""`planner.adjust/1`: what was expected of a change of a running job, and what came of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planner.wire._base import NotNegative, Wire
from planner.wire.run_v1 import Adjustment, Run

SCHEMA = "planner.adjust/1"
MINOR = 0


class Band(Wire):
    """A rate that is not known exactly."""

    lo: NotNegative
    mid: NotNegative
    hi: NotNegative


class Expected(Wire):
    """What the change was expected to do, before it was asked for; null where nothing tells."""

    what: str
    how: Literal["in_flight", "relaunch", "nothing"]
    why: str | None
    basis: Literal["estimate", "guess"] | None
    samples_per_s_before: NotNegative | None
    samples_per_s: Band | None
    usd_per_h_before: NotNegative
    usd_per_h: NotNegative
    peak_usd_per_h: NotNegative
    left_before_s: NotNegative | None
    left_s: NotNegative | None
    cost_at_end_before_usd: NotNegative | None
    cost_at_end_usd: NotNegative | None
    downtime_s: NotNegative | None
    stall_s: NotNegative | None
    asks: list[str]
    dearer: bool
    notes: list[str]


class Adjust(Wire):
    """The document. `outcome` is null where there was nothing to do, or nobody waited for it."""

    schema_: Literal["planner.adjust/1"] = Field(alias="schema")
    schema_minor: int
    expected: Expected
    outcome: Adjustment | None
    run: Run
