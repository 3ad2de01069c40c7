"""Rows for the predictors: what a configuration or a probe looks like as columns with units.

A table is a mapping of column names to float vectors of equal length. `table` makes one from a
pandas DataFrame, a numpy structured array, a mapping, or a plain 2-D array in the order of
`COLUMNS`; so every regressor takes any of them, and pandas is imported by nobody but its user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.core.distribution import LEVELS
from planner.core.types import Knobs, Offer, ProbeResult, ResourceConfig, WorkLoad
from predictors.columns import named_columns, one_length, positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Index = NDArray[np.intp]

Table = Mapping[str, "Array"]

COLUMNS: tuple[str, ...] = (
    "workers",
    "nodes",
    "workers_per_node",
    "micro_batch",
    "accumulation",
    "loader_workers",
    "on_cpu",
)
"""Columns of a configuration.

`workers`, `nodes`: counts. `workers_per_node`: workers on the busiest node. `micro_batch`: samples
of one forward pass of one worker. `accumulation`: forward passes per optimiser step.
`loader_workers`: data-loading processes per worker; 0 loads in the training process, not-a-number
means unknown. `on_cpu`: 1 when workers compute on CPU slots, else 0.
"""

LAYOUT: tuple[str, ...] = ("tensor_parallel", "pipeline_parallel")
"""Further columns of a configuration: how many workers share each layer of a replica of the model,
and how many take its layers in turn. Batches are those of a replica."""

REQUIRED: tuple[str, ...] = ("workers", "micro_batch")
"""Columns without a default; `workers_per_node` defaults to ceil(workers / nodes)."""

_DEFAULTS = {"nodes": 1.0, "accumulation": 1.0, "loader_workers": float("nan"), "on_cpu": 0.0}

STEADY_CLIP = 3.0
"""A step is counted as at most so many times the median step; see `mean_step_s`."""


def table(X: Any, *, optional: Sequence[str] = ()) -> dict[str, Array]:
    """The columns of `X` as float vectors, defaults filled in.

    Args:
        X: DataFrame, structured array, mapping of columns, or 2-D array in `COLUMNS` order.
        optional: Further columns to take along when they are there.

    Raises:
        ValueError: A column is missing, lengths differ, or a value is not a positive number.
    """
    raw = _raw_columns(X)
    missing = [name for name in REQUIRED if name not in raw]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(raw)}")
    result = {name: _vector(raw[name], name) for name in raw if name in (*COLUMNS, *optional)}
    n = one_length(result)
    for name, default in _DEFAULTS.items():
        result.setdefault(name, np.full(n, default))
    result.setdefault("workers_per_node", np.ceil(result["workers"] / result["nodes"]))
    for name in ("workers", "nodes", "workers_per_node", "micro_batch", "accumulation"):
        positive(result[name], name)
    if np.any(result["loader_workers"] < 0):
        row = int(np.argmax(result["loader_workers"] < 0))
        raise ValueError(f"column 'loader_workers' must not be negative: row {row} is")
    return result


def _raw_columns(X: Any) -> dict[str, Any]:
    named = named_columns(X)
    if named is not None:
        return named
    values = np.asarray(X, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(COLUMNS):
        raise ValueError(
            f"a plain array needs shape (n, {len(COLUMNS)}), columns {', '.join(COLUMNS)};"
            f" got {values.shape}"
        )
    return {name: values[:, i] for i, name in enumerate(COLUMNS)}


def _vector(values: Any, name: str) -> Array:
    column = np.asarray(values, dtype=float)
    if column.ndim != 1:
        raise ValueError(f"column {name!r} must be a vector, got shape {column.shape}")
    return column


def targets(y: Any, n: int, *, unit: str, fewest: int = 1) -> Array:
    """`y` as n positive finite floats, at least `fewest`.

    Raises:
        ValueError: Wrong length, or a value that cannot be a time or a size.
    """
    values = np.asarray(y, dtype=float)
    if values.shape != (n,):
        raise ValueError(f"y needs shape ({n},), one value for each row, got {values.shape}")
    if n < fewest:
        raise ValueError("need at least one row to fit")
    bad = ~(np.isfinite(values) & (values > 0))
    if np.any(bad):
        row = int(np.argmax(bad))
        raise ValueError(
            f"y must be positive and finite, in {unit}: row {row} is {values[row]:g};"
            " leave out rows that were not measured"
        )
    return values


def weights(sample_weight: Any, n: int) -> Array:
    """`sample_weight` as n floats in (0, 1]; all 1 where it is None.

    Raises:
        ValueError: Wrong length, or a value outside.
    """
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=float)
    if weight.shape != (n,) or not np.all((weight > 0) & (weight <= 1)):
        raise ValueError(f"sample_weight needs shape ({n},) and values in (0, 1]")
    return weight


def pieces(columns: Table, *, size: int = 2048) -> list[dict[str, Array]]:
    """The table in pieces, so that members times rows stay small."""
    n = len(columns["workers"])
    return [take(columns, np.arange(i, min(i + size, n))) for i in range(0, max(n, 1), size)]


def take(columns: Table, rows: Index | Sequence[int]) -> dict[str, Array]:
    """Some rows of a table, by index or by mask."""
    index = np.asarray(rows)
    return {name: column[index] for name, column in columns.items()}


def config_table(configs: Sequence[tuple[ResourceConfig, Knobs]]) -> dict[str, Array]:
    """Configurations as a table with `COLUMNS` and `LAYOUT`."""
    names = (*COLUMNS, *LAYOUT)
    rows = [
        (
            r.nodes * r.workers_per_node,
            r.nodes,
            r.workers_per_node,
            k.micro_batch,
            k.accumulation,
            k.loader_workers,
            0.0 if r.gpu else 1.0,
            k.tensor_parallel,
            k.pipeline_parallel,
        )
        for r, k in configs
    ]
    values = np.asarray(rows, dtype=float).reshape(len(rows), len(names))
    return {name: values[:, i] for i, name in enumerate(names)}


def by_replica(columns: Table) -> Table:
    """The table with replicas of the model in the place of workers, as each has its own samples."""
    of_each = columns["tensor_parallel"] * columns["pipeline_parallel"]
    replicas = columns["workers"] / of_each
    nodes = np.minimum(columns["nodes"], replicas)
    here = np.ceil(replicas / nodes)
    return {**columns, "workers": replicas, "nodes": nodes, "workers_per_node": here}


def check_layout(columns: Table) -> None:
    """Refuse rows of `LAYOUT` whose workers are no whole replicas, by the first of them.

    Raises:
        ValueError: There is one.
    """
    for name in LAYOUT:
        positive(columns[name], name)
    tensor, pipeline = (columns[name] for name in LAYOUT)
    rules = (
        (tensor == np.round(tensor), "tensor_parallel must be a whole number"),
        (pipeline == np.round(pipeline), "pipeline_parallel must be a whole number"),
        (
            columns["workers"] % (tensor * pipeline) == 0,
            "tensor_parallel x pipeline_parallel must divide workers",
        ),
    )
    for holds, rule in rules:
        if not np.all(holds):
            row = int(np.flatnonzero(~holds)[0])
            values = ", ".join(f"{name}={columns[name][row]:g}" for name in ("workers", *LAYOUT))
            raise ValueError(f"row {row}: {rule} ({values})")


def probe_table(probes: Sequence[ProbeResult]) -> dict[str, Array]:
    """Probes as a table: `COLUMNS`, `LAYOUT`, and `loader_wait_s`, s per step, NaN when unseen."""
    columns = config_table([(p.resources, p.knobs) for p in probes])
    waits = np.asarray(
        [np.nan if p.loader_wait_s is None else p.loader_wait_s for p in probes], dtype=float
    )
    columns["loader_wait_s"] = np.where(np.isfinite(waits) & (waits >= 0), waits, np.nan)
    return columns


def trial_table(probes: Sequence[ProbeResult]) -> dict[str, Array]:
    """Measured probes as trials of `predictors.run_time.RunTimeRegressor`."""

    def column(values: Sequence[float | None]) -> Array:
        told = np.asarray([np.nan if v is None else v for v in values], dtype=float)
        return np.where(np.isfinite(told) & (told >= 0), told, np.nan)

    # A probe of a job that saves ends with a checkpoint, unless that failed or the probe was cut
    # short: then its time is open.
    ended_without = [p.checkpoint_s is None and not p.cut and not p.error for p in probes]
    saved = [0.0 if none else p.checkpoint_s for p, none in zip(probes, ended_without, strict=True)]
    return {
        **probe_table(probes),
        "step_time_s": column([mean_step_s(p) for p in probes]),
        "start_s": column([p.start_s for p in probes]),
        "tail_s": column([p.tail_s for p in probes]),
        "tail_samples": column([p.tail_samples for p in probes]),
        "checkpoint_s": column(saved),
        "rest_s": column([p.rest_s for p in probes]),
        "unsteadiness": column([unsteadiness(p) for p in probes]),
        "crowding": column([crowding(p) for p in probes]),
    }


def run_table(
    configs: Sequence[tuple[ResourceConfig, Knobs]],
    work: WorkLoad,
    offers: Sequence[Offer] | None = None,
) -> dict[str, Array]:
    """Whole runs, as `predictors.run_time` and `predictors.cost` take them.

    Without `offers` they start at once, are free and are not interrupted.
    """
    n = len(configs)
    columns = {
        **config_table(configs),
        "global_batch": np.asarray([k.global_batch for _, k in configs], dtype=float),
        "samples": np.full(n, float(work.samples)),
        "epochs": np.full(n, float(work.epochs)),
        "tail_samples": np.full(n, float(work.tail_samples) or np.nan),
        "checkpoint_interval_s": np.asarray(
            [k.checkpoint_interval_s for _, k in configs], dtype=float
        ),
    }
    if offers is None:
        return {**columns, "usd_per_h": np.zeros(n)}
    prices = [o.price for o in offers]

    def column(values: Sequence[float | None]) -> Array:
        return np.asarray([np.nan if v is None else v for v in values], dtype=float)

    return {
        **columns,
        "wait_s": np.asarray([o.wait_s.quantiles for o in offers]).reshape(n, len(LEVELS)),
        "usd_per_h": column([p.usd_per_h for p in prices]),
        "p50_24h_usd_per_h": column([p.p50_24h_usd_per_h for p in prices]),
        "p90_24h_usd_per_h": column([p.p90_24h_usd_per_h for p in prices]),
        "interruptions_per_h": column([p.interruptions_per_h or 0.0 for p in prices]),
    }


def steady_s(probe: ProbeResult) -> tuple[float, ...]:
    """The step times that are positive numbers, s."""
    return tuple(t for t in probe.step_time_s if 0 < t < inf)


def is_measured(probe: ProbeResult) -> bool:
    """Whether a probe ended well and holds usable step times."""
    return probe.state == "ok" and bool(steady_s(probe))


def mean_step_s(probe: ProbeResult) -> float:
    """Mean steady step time of a probe, s.

    The mean, not the median, since a run's time is a sum of steps; steps beyond `STEADY_CLIP`
    medians are counted as that much, so that one hiccup of the machine in 30 steps is not taken
    for 3 % of every epoch.
    """
    times = np.asarray(steady_s(probe), dtype=float)
    return float(np.minimum(times, STEADY_CLIP * np.median(times)).mean())


def step_weight(probe: ProbeResult, sigma: float) -> float:
    """Weight in (0, 1] of a probe's mean: how much of its log-variance is not sampling error.

    Args:
        probe: A measured probe.
        sigma: Standard deviation of the logarithm between two trials of one configuration.
    """
    times = np.asarray(steady_s(probe), dtype=float)
    spread = float(np.std(np.log(times))) if len(times) > 1 else 0.3
    # Step times are correlated (a slow second slows several): count a third of them.
    sampling = spread / np.sqrt(max(len(times) / 3, 1.0))
    return float(1.0 / (1.0 + (sampling / sigma) ** 2))


def unsteadiness(probe: ProbeResult) -> float:
    """How much the steps of a probe differ: robust standard deviation of their logarithms.

    1.4826 times the median absolute deviation, so that a few stray steps do not count.
    """
    logs = np.log(steady_s(probe))
    return float(1.4826 * np.median(np.abs(logs - np.median(logs))))


def crowding(probe: ProbeResult) -> float:
    """How far others' work may have slowed a probe: log((its cores + what they took) / its cores).

    Steady company leaves no trace in the differences between steps, and may be gone, or have
    doubled, when the job runs.
    """
    own = max(probe.resources.nodes * probe.resources.vcpus_per_node, 1)
    return float(np.log1p((probe.other_cores or 0.0) / own))


def machine_key(resources: ResourceConfig) -> str:
    """What step times compare by: the GPU type, or for CPUs the place they belong to.

    Two CPU pools have nothing in common but the name; the same GPU type has.
    """
    if resources.gpu:
        return resources.gpu
    return "/".join(("cpu", resources.runner, resources.pool, resources.instance_type or ""))
