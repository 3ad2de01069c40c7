"""What is asked for: a training job as its job file describes it, and the goal of its user.

Frozen and hashable, every unit in the name; see `planner.core.types` for the rest of the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Precision = Literal["fp32", "tf32", "amp_fp16", "bf16"]
Prefer = Literal["cost", "time", "risk"]
Setting = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One `[[where]]` of a job file: a runner, and that runner's own settings for this job."""

    runner: str
    pool: str
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How to try the job out, and what that may cost at the most."""

    slice_fraction: float = 0.1
    steps: int = 30
    warmup_steps: int = 5
    max_cost_usd: float = 1.5
    max_time_s: float = 900.0
    hang_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustPolicy:
    """Which knobs may change in flight: freely, only after asking, or never.

    One that stands in no list is asked about. `global_batch` needs `--allow-maths` in any case,
    and nothing else: that says what `never` is to keep from happening unnoticed.
    """

    allow: tuple[str, ...] = (
        "workers",
        "micro_batch",
        "loader_workers",
        "memory",
        "checkpoint_interval",
    )
    ask: tuple[str, ...] = ()
    never: tuple[str, ...] = ("global_batch",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the user wants. `deadline_s` counts from when it was stated, and ends `deadline_at`."""

    deadline_at: datetime | None = None
    deadline_s: float | None = None
    budget_usd: float | None = None
    confidence: float = 0.9
    prefer: Prefer = "cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A decoder-only transformer: what the time of its steps follows from.

    Attributes:
        hidden: Elements of a token between layers.
        heads: Attention heads.
        sequence: Tokens of a sample.
    """

    hidden: int
    layers: int
    heads: int
    sequence: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A training job, as its job file describes it.

    Attributes:
        name: Letters, digits, `-` and `_`.
        command: Argument vector with `{placeholders}`; never passed to a shell.
        workdir: Absolute folder the command runs in: the job file's own.
        data: Absolute path of the data set, or None when the job has none that planner can slice.
        samples: Training samples of one epoch; None until the data set or the job said so.
        epochs: Passes over the data.
        global_batch: Samples of one optimiser step over all workers; None until the job said so.
        micro_batches: Micro-batches per worker worth trying; empty lets planner choose.
        worker_counts: Worker counts worth trying; empty lets planner choose.
        loader_workers: Data-loading processes per worker; None keeps the script's own.
        precision: Arithmetic the script uses; told, not chosen, by planner.
        checkpoint_dir: Template of the checkpoint folder; None keeps it in the run's own folder.
        checkpoint_interval_s: Wanted time between checkpoints.
        env: Names of environment variables that the job is given besides the basic ones.
        tier: 1 when the script uses the SDK, else 0.
        seed: Seed of the data order.
        hang_timeout_s: Without a step for so long, a worker counts as hung.
        retries: How often a failed attempt is started again when it had made progress.
        model: What the script trains, where that is a language model that the job file describes.
        tensor_parallel: Workers that the script can share each layer among; no more than a node's.
        pipeline_parallel: Workers that it can share the layers out to, one after another.
        source: The job file, for messages; None when made from a command line.
    """

    name: str
    command: tuple[str, ...]
    workdir: str
    data: str | None = None
    samples: int | None = None
    epochs: int = 1
    global_batch: int | None = None
    micro_batches: tuple[int, ...] = ()
    worker_counts: tuple[int, ...] = ()
    loader_workers: int | None = None
    precision: Precision = "fp32"
    checkpoint_dir: str | None = None
    checkpoint_interval_s: float = 600.0
    env: tuple[str, ...] = ()
    tier: Literal[0, 1] = 0
    seed: int = 0
    hang_timeout_s: float = 600.0
    retries: int = 2
    places: tuple[Place, ...] = ()
    probe: ProbeSettings = ProbeSettings()
    goal: Goal = Goal()
    adjust: AdjustPolicy = AdjustPolicy()
    model: LanguageModel | None = None
    tensor_parallel: tuple[int, ...] = (1,)
    pipeline_parallel: tuple[int, ...] = (1,)
    source: str | None = None
