"""The domain's values: frozen, hashable, every unit in the name.

They are made by the edges (`planner.config`, `planner.wire`), by runners and by predictors, and
passed between layers as they are. Paths are strings here, since a run's paths may be on another
machine. Money that was really spent is integer micro-dollars (`_microusd`); predicted money is a
`Distribution` in dollars (`_usd`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from planner.core.distribution import Distribution, Evidence
from planner.core.job import Goal, JobSpec, Precision
from planner.core.nextprobe import NextProbe
from planner.core.prediction import Bottleneck, Interval, MemoryParts
from planner.core.recommendation import Recommendation

Market = Literal["spot", "on_demand", "queue", "local"]
PriceSource = Literal["live", "cache", "static", "contract", "free"]
ProbeState = Literal["ok", "oom", "failed", "preempted", "skipped"]


# ---- what there is ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceConfig:
    """Machines and workers, of one shape, at one place.

    `workers_per_node` is the number of training processes on each node: one per GPU, or one per
    CPU slot where there is no GPU. `vcpus_per_node` counts only what this configuration is given.
    """

    runner: str
    pool: str
    market: Market
    nodes: int = 1
    workers_per_node: int = 1
    gpus_per_node: int = 0
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    vcpus_per_node: int = 1
    memory_bytes_per_node: int | None = None
    instance_type: str | None = None
    region: str | None = None
    zone: str | None = None

    @property
    def workers(self) -> int:
        """Training processes in all."""
        return self.nodes * self.workers_per_node

    @property
    def device(self) -> str:
        """GPU type, or `cpu`: what step times of different configurations compare by."""
        return self.gpu or "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What can be turned without other machines.

    A replica of the model is a single worker, or `tensor_parallel` times `pipeline_parallel` of
    them; its batches are those of all its workers together.
    """

    micro_batch: int
    accumulation: int
    global_batch: int
    loader_workers: int = 0
    precision: Precision = "fp32"
    checkpoint_interval_s: float = 600.0
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def replica_workers(self) -> int:
        """Workers that one replica of the model is spread over."""
        return self.tensor_parallel * self.pipeline_parallel

    def replicas(self, workers: int) -> int:
        """Replicas of the model that so many workers hold, each with data of its own."""
        return max(workers // self.replica_workers, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceQuote:
    """What a configuration costs per hour, where that is known from, and how old it is.

    `usd_per_h` is for the whole configuration. It is 0 only with `source="free"`.
    """

    usd_per_h: float
    source: PriceSource
    as_of: datetime
    age_s: float = 0.0
    stale: bool = False
    p50_24h_usd_per_h: float | None = None
    p90_24h_usd_per_h: float | None = None
    interruptions_per_h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A configuration that a runner could start now, and its price."""

    resources: ResourceConfig
    price: PriceQuote
    wait_s: Distribution


# ---- what was learned --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One short real trial.

    Attributes:
        id: Stable for the same fingerprint, resources and knobs.
        fingerprint: The job this is evidence about.
        steps: Steady steps measured, warm-up not counted.
        warmup_steps: Steps dropped before the steady state.
        step_time_s: Steady times of whole optimiser steps; empty unless `state` is `ok`.
        loader_wait_s: Mean wait for data within a step.
        start_s: From launch to the first step.
        tail_s: What the loop body did after the last batch of an epoch (evaluation), on
            `tail_samples` samples of the sliced non-training splits: mean over the epochs that
            the probe saw the end of; None when it saw none.
        tail_samples: Samples in the non-training splits of the slice.
        checkpoint_s: How long training stood still for one checkpoint; None when none was written.
        checkpoint_bytes: Size of it.
        rest_s: What the wall time holds besides the start, steps at the steady pace, tails and
            checkpoints: slower first steps, leaving; None when it cannot be told.
        cut: Whether it was stopped before its own end, by a cap or by the user: that it wrote no
            checkpoint then says nothing.
        peak_device_bytes: Largest peak over the workers, from inside: torch's counter of the GPU,
            or resident memory of the process tree on CPU.
        reserved_device_bytes: Largest that torch's allocator had taken from the GPU, to hand it
            out: what it needed at its peak, and blocks that it keeps for later.
        peak_outside_bytes: The peak seen from outside (NVML, or psutil).
        model_bytes: Parameters and buffers on one worker; None where the job did not tell.
        gradient_bytes: What the gradients of all trained parameters take there.
        optimizer_bytes: The optimiser's state there.
        capacity_bytes: Device memory that a worker could have used.
        slice_samples: Training samples in the slice.
        samples: Training samples the whole epoch has.
        epochs: Passes over the data that the script said it makes; None when it did not say.
        other_cores: Cores of this machine that other programs took from the probe, on average;
            0 where cores were free, None where it cannot be told.
        error: Why it failed, in one line.
        log: Last lines of the failed job's output.
    """

    id: str
    fingerprint: str
    resources: ResourceConfig
    knobs: Knobs
    state: ProbeState
    measured_at: datetime
    steps: int = 0
    warmup_steps: int = 0
    step_time_s: tuple[float, ...] = ()
    loader_wait_s: float | None = None
    start_s: float | None = None
    tail_s: float | None = None
    tail_samples: int | None = None
    checkpoint_s: float | None = None
    checkpoint_bytes: int | None = None
    rest_s: float | None = None
    cut: bool = False
    peak_device_bytes: int | None = None
    reserved_device_bytes: int | None = None
    peak_outside_bytes: int | None = None
    model_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_bytes: int | None = None
    capacity_bytes: int | None = None
    gpu_utilisation: float | None = None
    slice_samples: int | None = None
    samples: int | None = None
    epochs: int | None = None
    other_cores: float | None = None
    wall_s: float = 0.0
    cost_usd: float = 0.0
    error: str | None = None
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLoad:
    """How much there is to do: what a whole-run prediction is made for.

    `samples` and `tail_samples` are those of one epoch, over the whole data set. No `tail_samples`
    are none that anybody knows of: a script may have others than the layout of the data tells.
    """

    samples: int
    epochs: float
    tail_samples: int = 0
    slice_fraction: float = 1.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an option is not feasible."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run the whole job, scored against the goal."""

    id: str
    resources: ResourceConfig
    knobs: Knobs
    price: PriceQuote
    wait_s: Distribution
    run_s: Distribution
    total_s: Distribution
    cost_usd: Distribution
    memory_bytes: Distribution
    throughput_samples_per_s: Distribution
    total_interval: Interval
    cost_interval: Interval
    p_oom: float
    p_deadline: float | None
    p_budget: float | None
    bottleneck: Bottleneck
    expected_interruptions: float
    evidence: Evidence
    rank: int
    on_front: bool
    dominated_by: str | None
    feasible: bool
    reasons: tuple[Reason, ...] = ()
    memory_parts: MemoryParts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """How good the predictors have been. None where nothing was measured yet.

    Attributes:
        n_runs: Finished runs that intervals were moved by.
    """

    id: str
    n_train: int
    coverage: float | None = None
    time_mape: float | None = None
    memory_mape: float | None = None
    n_runs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning_:
    """Something the reader of an estimate should know, under a stable code."""

    code: str
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateResult:
    """Everything `planner estimate` found out.

    Attributes:
        created_at: When it was made, from which its age counts.
        rescored_at: When its options were scored again, under another goal; None when never.
        next_probe: What one more probe would buy, and why it was not made; None where every probe
            failed. Under the goal that the estimate was made for.
        probe_decisions: The probes beyond the first few that were decided on, in order.
    """

    id: str
    created_at: datetime
    seed: int
    job: JobSpec
    work: WorkLoad
    goal: Goal
    recommendation: Recommendation
    options: tuple[Option, ...]
    probes: tuple[ProbeResult, ...]
    probe_cost_usd: float
    model: ModelCard
    warnings: tuple[Warning_, ...] = ()
    rescored_at: datetime | None = None
    next_probe: NextProbe | None = None
    probe_decisions: tuple[NextProbe, ...] = ()

    @property
    def scored_at(self) -> datetime:
        """What is left of a deadline in its chances, and a flip's deadline, count from then."""
        return self.rescored_at or self.created_at

    def option(self, option_id: str) -> Option | None:
        """The option of that id."""
        return next((o for o in self.options if o.id == option_id), None)


# ---- what is run ---------------------------------------------------------------------------------


class RunState(StrEnum):
    """Where a run stands. `planner.core.lifecycle` holds the moves that are allowed."""

    PLANNED = "planned"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED_BY_CAP = "stopped_by_cap"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset(
    {RunState.DONE, RunState.FAILED, RunState.STOPPED_BY_CAP, RunState.CANCELLED}
)
