"""`planner.run/1`: where a run stands; and `planner.runs/1`, a list of runs in short."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planner.wire._base import NotNegative, Share, Time, Wire
from planner.wire.estimate_v1 import Interval, Knobs, Quantiles, Resources

SCHEMA = "planner.run/1"
LIST_SCHEMA = "planner.runs/1"
MINOR = 2

State = Literal[
    "planned",
    "provisioning",
    "running",
    "interrupted",
    "paused",
    "stopping",
    "done",
    "failed",
    "stopped_by_cap",
    "cancelled",
]


class Progress(Wire):
    """How far the training is."""

    fraction: Share
    step: Annotated[int, Field(ge=0)]
    steps_total: int | None
    epoch: int
    epochs: float
    samples_per_s: NotNegative | None
    loader_wait_fraction: Share | None


class Money(Wire):
    """What it cost so far, the cap, and what it will have cost in the end."""

    spent_usd: NotNegative
    budget_usd: NotNegative | None
    usd_per_h: NotNegative
    max_usd_per_h: NotNegative
    at_end_usd: Quantiles | None
    p_budget: Share | None


class Timing(Wire):
    """How long it took so far, the deadline, and what is left. `total_s` is set when it ended."""

    elapsed_s: NotNegative
    total_s: NotNegative | None
    left_s: Quantiles | None
    deadline_at: Time | None
    p_deadline: Share | None
    late: bool


class Predicted(Wire):
    """What was predicted at launch, and whether the real total time fell into its interval."""

    total_s: Quantiles
    total_interval_s: Interval
    cost_usd: Quantiles
    cost_interval_usd: Interval
    within_interval: bool | None


class Checkpoint(Wire):
    """The last good checkpoint."""

    at: Time
    bytes: int | None
    step: int | None


class Decision(Wire):
    """What a guard or a controller did, why, what it expected, and what came of it."""

    id: str
    at: Time
    action: str
    why: str
    mode: str
    expected: str
    measured: str


class InForce(Wire):
    """What the run works with now, and its next attempt starts with."""

    workers: Annotated[int, Field(ge=1)]
    crew: list[int]
    resources: Resources
    knobs: Knobs
    memory: Literal["normal", "low"]
    lr_scale: NotNegative
    schedule_batch: int | None
    checkpoint_auto: bool


class Adjustment(Wire):
    """One change of the run, from the request to what came of it; null where unknown."""

    id: str | None
    command: str | None
    what: str
    state: Literal["waiting", "going_on", "done", "not_done", "refused"]
    reason: Literal["asked", "lost", "replaced"]
    how: Literal["in_flight", "relaunch", "nothing"] | None
    asked_at: Time | None
    done_at: Time | None
    text: str | None
    step: int | None
    workers: int | None
    downtime_s: NotNegative | None
    stall_s: NotNegative | None
    step_time_s: NotNegative | None
    redone_samples: int | None
    lost_samples: int | None
    samples_per_s_before: NotNegative | None
    samples_per_s: NotNegative | None


class Run(Wire):
    """The document."""

    schema_: Literal["planner.run/1"] = Field(alias="schema")
    schema_minor: int
    run_id: str
    name: str
    job: str
    state: State
    reason: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    estimate_id: str
    option_id: str
    resources: Resources
    knobs: Knobs
    controller: Literal["off", "suggest", "guarded", "auto"]
    attempts: int
    supervisor_alive: bool
    progress: Progress
    money: Money
    time: Timing
    predicted: Predicted
    last_checkpoint: Checkpoint | None
    metrics: dict[str, float | None]
    decisions: list[Decision]
    warnings: list[str]
    in_force: InForce | None
    adjustments: list[Adjustment]


class RunLine(Wire):
    """One run in short."""

    run_id: str
    name: str
    state: State
    reason: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    option: str
    progress: Share
    spent_usd: NotNegative
    budget_usd: NotNegative | None
    total_s: NotNegative | None
    predicted_total_s: Quantiles
    predicted_cost_usd: Quantiles
    late: bool
    within_interval: bool | None
    supervisor_alive: bool


class RunList(Wire):
    """The document of `planner status --json` without a run."""

    schema_: Literal["planner.runs/1"] = Field(alias="schema")
    schema_minor: int
    runs: list[RunLine]
