"""The tables of a job file. docs/job-file.md says the same in words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from planner.config.settingsmodel import SettingsTable
from planner.config.tomlfile import nearest
from planner.config.validation import Table, unit, wrong
from planner.core.job import AdjustPolicy, Precision, Prefer, ProbeSettings
from planner.core.units import (
    deadline_from_time,
    parse_deadline,
    parse_duration_s,
    parse_money_usd,
)

KNOBS = (
    "workers",
    "micro_batch",
    "loader_workers",
    "memory",
    "move",
    "checkpoint_interval",
    "global_batch",
    "market",
    "zone",
    "instance_type",
)
"""What `[adjust]` may name."""

RESERVED_VARIABLES = frozenset(
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
)
"""Set by planner for every worker; a job cannot pass its own."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PROBE = ProbeSettings()
_ADJUST = AdjustPolicy()


def _deadline(value: Any, info: ValidationInfo) -> tuple[float, datetime]:
    now: datetime = (info.context or {})["now"]
    if isinstance(value, datetime):
        return deadline_from_time(value, now), value.astimezone(UTC)
    if isinstance(value, time):
        return parse_deadline(value.strftime("%H:%M"), now)
    return parse_deadline(str(value), now)


def _knob(value: str) -> str:
    if value not in KNOBS:
        near = nearest(value, KNOBS)
        meant = f'; did you mean "{near}"?' if near else ""
        raise wrong(f'"{value}" is no knob{meant} (knobs: {", ".join(KNOBS)})')
    return value


def _variable(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.split("=", 1)[0]
    if "=" in value:
        shown = name if _VARIABLE.fullmatch(name) else "..."
        raise wrong(f'names only, no values: write "{shown}" and export it before calling planner')
    if not _VARIABLE.fullmatch(value):
        raise wrong("names of environment variables only: letters, digits and _")
    if value in RESERVED_VARIABLES or value.startswith("PLANNER_"):
        raise wrong(f"{value} is set by planner itself")
    return value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _positive_duration(value: Any) -> float:
    return parse_duration_s(str(value))


def _price(value: Any) -> float:
    return parse_money_usd(value, allow_zero=True)


_MONEY_SCHEMA = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}],
    "examples": [40, "$40"],
}
Duration = Annotated[
    float,
    BeforeValidator(unit(_positive_duration)),
    WithJsonSchema({"type": "string", "examples": ["6h", "90m", "1h30m", "PT6H"]}),
]
Cap = Annotated[float, BeforeValidator(unit(parse_money_usd)), WithJsonSchema(_MONEY_SCHEMA)]
Price = Annotated[
    float,
    BeforeValidator(unit(_price)),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
]
Deadline = Annotated[
    tuple[float, datetime],
    PlainValidator(lambda value, info: unit(lambda v: _deadline(v, info))(value)),
    WithJsonSchema({"type": "string", "examples": ["6h", "17:40", "2026-11-22T08:00Z"]}),
]
Count = Annotated[int, Field(ge=1, le=10**12)]
Counts = Annotated[list[Count], BeforeValidator(_one_or_more), Field(min_length=1, max_length=64)]
Knob = Annotated[
    str, BeforeValidator(lambda value: _knob(value) if isinstance(value, str) else value)
]
Variable = Annotated[str, BeforeValidator(_variable)]


class JobTable(Table):
    """`[job]`: what to run, on what data, how much of it."""

    name: str = Field(description="Letters, digits, - and _; becomes part of file names.")
    command: str | list[str] = Field(
        description="What starts one worker, with {placeholders}; run without a shell."
    )
    data: str | None = Field(None, description="Data set; relative to the job file's folder.")
    samples: Count | None = Field(None, description="Training samples of one epoch.")
    epochs: Count = Field(1, description="Passes over the data.")
    global_batch: Count | None = Field(
        None, description="Samples of one optimiser step over all workers."
    )
    micro_batches: Counts | None = Field(None, description="Micro-batches per worker to consider.")
    workers: Counts | None = Field(None, description="Worker counts to consider.")
    loader_workers: int | None = Field(
        None, ge=0, le=1024, description="Data-loading processes per worker."
    )
    precision: Precision = Field("fp32", description="Arithmetic that the script uses.")
    checkpoint: str | None = Field(
        None, description="Checkpoint folder, with {run_id}; absent keeps it in the run's own."
    )
    env: list[Variable] = Field([], description="Names of environment variables to pass on.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of the data order.")

    @model_validator(mode="after")
    def _batches_fit(self) -> JobTable:
        if self.global_batch is not None:
            for key, values in (("micro_batches", self.micro_batches), ("workers", self.workers)):
                if values and min(values) > self.global_batch:
                    raise wrong(f"{key} holds nothing up to global_batch = {self.global_batch}")
        return self


class ProbeTable(Table):
    """`[probe]`: how to try the job out, and what that may cost at the most."""

    slice: float = Field(
        _PROBE.slice_fraction, gt=0, le=1, description="Fraction of the data, by class."
    )
    steps: int = Field(_PROBE.steps, ge=5, le=100_000, description="Optimiser steps to measure.")
    warmup: int = Field(
        _PROBE.warmup_steps, ge=0, le=100_000, description="Steps dropped before measuring."
    )
    max_cost: Cap = Field(_PROBE.max_cost_usd, description="Dollars, all probes together.")
    max_time: Duration = Field(
        _PROBE.max_time_s, description="All probes together.", examples=["15m"]
    )
    hang_timeout: Duration = Field(
        _PROBE.hang_timeout_s, description="Without a step for so long, a probe counts as hung."
    )


class GoalTable(Table):
    """`[goal]`: what is wanted. Flags of the same name go before it."""

    deadline: Deadline | None = Field(None, description="Duration, clock time, or date with zone.")
    budget: Cap | None = Field(None, description="Dollars; a hard cap on the whole run.")
    confidence: float = Field(0.9, ge=0.5, le=0.99, description="Chance the goal must be met with.")
    prefer: Prefer = Field("cost", description="What decides among options that meet the goal.")


class RunTable(Table):
    """`[run]`: how the run is looked after."""

    hang_timeout: Duration = Field(
        600.0, description="Without a step for so long, a worker counts as hung."
    )
    retries: int = Field(
        2, ge=0, le=1000, description="Restarts of an attempt that had made progress."
    )
    checkpoint_interval: Duration = Field(600.0, description="Wanted time between checkpoints.")


class ModelTable(Table):
    """`[model]`: the decoder-only transformer that the script trains."""

    hidden: Count = Field(description="Elements of a token between layers.")
    layers: Count = Field(description="Transformer layers.")
    heads: Count = Field(description="Attention heads; divides hidden.")
    sequence: Count = Field(description="Tokens of a sample.")
    vocabulary: Count = Field(description="Tokens that there are.")

    @model_validator(mode="after")
    def _heads_are_alike(self) -> ModelTable:
        if self.hidden % self.heads:
            raise wrong(f"heads = {self.heads} does not divide hidden = {self.hidden}")
        return self


class ParallelTable(Table):
    """`[parallel]`: how the script can spread one replica of the model over workers."""

    tensor: Counts = Field([1], description="Workers that share each layer; divides heads.")
    pipeline: Counts = Field([1], description="Workers that take layers in turn; divides layers.")


class AdjustTable(Table):
    """`[adjust]`: what may change in flight. A knob stands in one list only."""

    allow: list[Knob] | None = Field(
        None, description=f"Freely. Default: {', '.join(_ADJUST.allow)}."
    )
    ask: list[Knob] | None = Field(None, description="Only after asking. Default: none.")
    never: list[Knob] | None = Field(None, description=f"Default: {', '.join(_ADJUST.never)}.")

    @model_validator(mode="after")
    def _one_list_each(self) -> AdjustTable:
        seen: dict[str, str] = {}
        for key in ("allow", "ask", "never"):
            for knob in getattr(self, key) or ():
                if seen.setdefault(knob, key) != key:
                    raise wrong(f'"{knob}" stands in both {seen[knob]} and {key}')
        return self


class LocalPlace(Table):
    """`[[where]]` with `runner = "local"`: this machine."""

    runner: Literal["local"]
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="GPUs where there are some, else CPU slots."
    )
    slots: Count | None = Field(None, description="CPU slots to use; one core each.")
    usd_per_slot_h: Price | None = Field(None, description="Price of a CPU slot and hour.")
    usd_per_gpu_h: Price | None = Field(None, description="Price of a GPU and hour.")
    pool: str | None = Field(None, description="Name shown for it. Default: cpu or gpu.")


class SlurmPlace(Table):
    """`[[where]]` with `runner = "slurm"`."""

    runner: Literal["slurm"]
    partition: str | None = Field(None, description="Partition; absent takes the default one.")
    account: str | None = None
    qos: str | None = None
    gpu: str | None = Field(None, description="GPU type to ask for.")
    max_nodes: Count | None = None
    usd_per_gpu_h: Price | None = Field(None, description="What a GPU hour is worth.")


class Ec2Place(Table):
    """`[[where]]` with `runner = "ec2"`."""

    runner: Literal["ec2"]
    regions: list[str] | None = None
    markets: list[Literal["spot", "on_demand"]] | None = None
    instance_types: list[str] | None = None
    max_price: str | float | None = Field(
        None, description='Dollars per hour, or a multiple of today\'s price such as "1.3x".'
    )


PLACES: dict[str, type[Table]] = {"local": LocalPlace, "slurm": SlurmPlace, "ec2": Ec2Place}
"""Runners whose settings are known here; those of other runners are passed on as they are."""


class JobFile(Table):
    """A job file. One may also carry `[settings]`, which is read by `planner.config.settings`."""

    job: JobTable
    probe: ProbeTable = ProbeTable()
    goal: GoalTable = GoalTable()
    run: RunTable = RunTable()
    model: ModelTable | None = Field(None, description="Only for a language model.")
    parallel: ParallelTable = ParallelTable()
    adjust: AdjustTable = AdjustTable()
    where: list[dict[str, Any]] = Field([], description="Places to consider; none: this machine.")
    settings: SettingsTable | None = Field(None, description="See docs/settings.md.")
