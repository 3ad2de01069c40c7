"""`planner.estimate/1`: what `planner estimate --json` prints. Units are in the keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from planner.wire._base import NotNegative, Share, Time, Wire

SCHEMA = "planner.estimate/1"
MINOR = 1


class Quantiles(Wire):
    """A predictive distribution, all values in the unit that the owning key's suffix names."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.pop("additionalProperties", None)
    )

    p05: NotNegative
    p50: NotNegative
    p95: NotNegative
    mean: NotNegative


class Work(Wire):
    """How much there is to do: samples over all epochs."""

    samples: int
    epochs: float | None
    slice_fraction: Share
    fingerprint: str


class Goal(Wire):
    """What was asked for."""

    deadline_s: NotNegative | None
    deadline_at: Time | None
    budget_usd: NotNegative | None
    confidence: Share
    prefer: Literal["cost", "time", "risk"]


class Flip(Wire):
    """The pick becomes `to` when `variable` goes beyond `value`."""

    to: str
    variable: str
    op: Literal["<", ">"]
    value: float
    unit: str


class Recommendation(Wire):
    """The pick, its rule, one sentence, and what would change it."""

    option_id: str | None
    rule: str
    text: str
    flips: list[Flip]


class Reason(Wire):
    """Why an option is refused."""

    code: str
    text: str


class Resources(Wire):
    """Machines and workers. Without GPUs a worker has one slot of `vcpus_per_node`."""

    runner: str
    pool: str
    instance_type: str | None
    region: str | None
    zone: str | None
    market: Literal["spot", "on_demand", "queue", "local"]
    nodes: Annotated[int, Field(ge=1)]
    gpus_per_node: Annotated[int, Field(ge=0)]
    gpu: str | None
    gpu_memory_bytes: int | None
    vcpus_per_node: Annotated[int, Field(ge=1)]


class Knobs(Wire):
    """What can be turned without other machines."""

    micro_batch: int
    accumulation: int
    global_batch: int
    loader_workers: int
    precision: Literal["fp32", "tf32", "amp_fp16", "bf16"]
    checkpoint_interval_s: NotNegative
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    pipeline_parallel: Annotated[int, Field(ge=1)] = 1


class Price(Wire):
    """Price of the whole option, where it is known from, and how old it is."""

    usd_per_h: NotNegative
    source: Literal["live", "cache", "static", "contract", "free"]
    as_of: Time
    age_s: NotNegative
    stale: bool
    p50_24h_usd_per_h: NotNegative | None
    p90_24h_usd_per_h: NotNegative | None
    interruptions_per_h: NotNegative | None


class Interval(Wire):
    """A prediction interval and how far it can be trusted."""

    level: Annotated[float, Field(gt=0, lt=1)]
    lo: NotNegative
    hi: NotNegative
    method: Literal["cqr", "split", "analytic", "none"]
    calibrated: bool
    n_calibration: Annotated[int, Field(ge=0)]


class MemoryParts(Wire):
    """What the most probable peak of one worker is made of; null: part of `context_bytes`."""

    context_bytes: NotNegative
    weights_bytes: NotNegative | None
    gradients_bytes: NotNegative | None
    optimizer_bytes: NotNegative | None
    activations_bytes: NotNegative
    synchronisation_bytes: NotNegative
    evidence: Literal["probe", "history", "transfer", "prior"]


class Option(Wire):
    """One way to run the whole job, scored against the goal."""

    id: str
    rank: Annotated[int, Field(ge=1)]
    on_front: bool
    dominated_by: str | None
    feasible: bool
    reasons: list[Reason]
    resources: Resources
    knobs: Knobs
    price: Price
    wait_s: Quantiles
    run_s: Quantiles
    total_s: Quantiles
    total_interval_s: Interval
    cost_usd: Quantiles
    cost_interval_usd: Interval
    gpu_memory_bytes: Quantiles
    memory_parts: MemoryParts | None = None  # documents of minor 0 have none
    p_oom: Share
    p_deadline: Share | None
    p_budget: Share | None
    throughput_samples_per_s: Quantiles
    bottleneck: Literal["gpu", "loader", "network", "memory", "unknown"]
    expected_interruptions: NotNegative
    evidence: Literal["probe", "history", "transfer", "prior"]


class Probe(Wire):
    """One short real trial."""

    id: str
    resources: Resources
    knobs: Knobs
    state: Literal["ok", "oom", "failed", "preempted", "skipped"]
    steps: int
    warmup_steps: int
    step_s: Quantiles | None
    peak_gpu_memory_bytes: int | None
    loader_wait_fraction: Share | None
    wall_s: NotNegative
    cost_usd: NotNegative
    error: str | None


class Model(Wire):
    """What the predictors learned from, and how good they have been."""

    id: str
    n_train: int
    coverage: Share | None
    time_mape: NotNegative | None
    memory_mape: NotNegative | None


class NextProbe(Wire):
    """What one more probe would buy and cost, and why it is made or not."""

    option_id: str | None
    reason: Literal[
        "worth",
        "not_worth",
        "settled",
        "cap",
        "stopped",
        "all_tried",
        "unmeasured",
    ]
    time_s: NotNegative
    cost_usd: NotNegative
    saves_usd: NotNegative | None
    saves_s: NotNegative | None
    p_change: Share | None


class Warning_(Wire):
    """Something a reader should know, under a stable code."""

    code: str
    text: str
    hint: str | None


class Estimate(Wire):
    """The document."""

    schema_: Literal["planner.estimate/1"] = Field(alias="schema")
    schema_minor: int
    planner_version: str
    estimate_id: str
    created_at: Time
    seed: int
    currency: Literal["USD"]
    job: str
    work: Work
    goal: Goal
    recommendation: Recommendation
    options: list[Option]
    probes: list[Probe]
    probe_cost_usd: NotNegative
    model: Model
    warnings: list[Warning_]
    next_probe: NextProbe | None = None
    probe_decisions: list[NextProbe] = Field(default_factory=list)
