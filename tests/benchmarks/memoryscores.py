"""How well peaks of memory are predicted from one or two others; bench_memory_fit.py prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from planner.core.distribution import I05, I50, I95
from predictors.features import take
from predictors.memory import MemoryRegressor
from predictors.memory_law import StateBytes
from predictors.memory_sharding import predict_sharded

VIEWS = ("resident", "allocator")
MODES = ("alone", "ddp", "fsdp8")
Row = Mapping[str, str]
"""One measurement, its columns as the file has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one workload in one view.

    Attributes:
        errors: Relative, signed, at each micro-batch that was no probe.
        inside: Whether the peak was within the 90 % interval there.
        halfwidth: Half of that interval over the median, mean.
        chances: P(out of memory), and whether the peak was above the capacity, at capacities
            between the measured peaks.
    """

    errors: list[float]
    inside: list[bool]
    halfwidth: float
    chances: list[tuple[float, bool]]


def table_of(rows: Sequence[Row], workers: float = 1.0) -> tuple[dict[str, Any], Any]:
    """Configurations as columns, and the peaks, bytes."""
    columns = {
        "workers": np.full(len(rows), workers),
        "micro_batch": np.asarray([float(row["micro_batch"]) for row in rows]),
        "on_cpu": np.asarray([float(row["view"] == "resident") for row in rows]),
    }
    return columns, np.asarray([float(row["peak_bytes"]) for row in rows])


def state_of(rows: Sequence[Row]) -> Any:
    """What training keeps from step to step."""
    return StateBytes(
        weights=float(rows[0]["model_bytes"]),
        gradients=float(rows[0]["gradient_bytes"]),
        optimizer=float(rows[0]["optimizer_bytes"]),
    )


def score(rows: Sequence[Row], probes: int, *, knows_state: bool) -> Score:
    """Predict all rows of a workload from its smallest and its middle micro-batch."""
    columns, peaks = table_of(rows)
    batches = columns["micro_batch"]
    distinct = np.unique(batches)
    tried = distinct[[0, len(distinct) // 2][:probes]]
    first = [int(np.flatnonzero(batches == batch)[0]) for batch in tried]
    model = MemoryRegressor().fit(
        take(columns, first),
        peaks[first],
        state=state_of(rows) if knows_state else None,
        context_bytes=0.0,  # of the allocator there is none beside
    )
    left = np.flatnonzero(~np.isin(batches, tried))
    quantiles = model.predict_distribution(take(columns, left))
    found = peaks[left]
    ordered = np.unique(peaks)
    chances = []
    for capacity in np.sqrt(ordered[1:] * ordered[:-1]):
        risk = model.p_oom(take(columns, left), np.full(len(left), capacity))
        chances += [(float(p), bool(y > capacity)) for p, y in zip(risk, found, strict=True)]
    return Score(
        errors=list(quantiles[:, I50] / found - 1),
        inside=list((quantiles[:, I05] <= found) & (found <= quantiles[:, I95])),
        halfwidth=float(np.mean((quantiles[:, I95] - quantiles[:, I05]) / 2 / quantiles[:, I50])),
        chances=chances,
    )


def report(rows: Sequence[Row]) -> None:
    """Print errors, coverage and how honest P(out of memory) was."""
    kept = _by_workload(rows)
    for view in VIEWS:
        for probes, knows_state in ((2, True), (2, False), (1, True), (1, False)):
            told = "sizes of the state told" if knows_state else "nothing told"
            print(f"{view}, {probes} probe(s), {told}")
            found = {n: modes["alone", view] for n, modes in kept.items()}
            _print_scores({n: score(r, probes, knows_state=knows_state) for n, r in found.items()})
    print("allocator, from two probes without data parallel, sizes of the state told")
    for name, found in kept.items():
        for mode in MODES[1:]:
            if (mode, "allocator") in found:
                _print_mode(name, mode, found["alone", "allocator"], found[mode, "allocator"])


def _by_workload(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], list[Row]]]:
    """Rows by workload, then by mode and view."""
    found: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        modes = found.setdefault(row["workload"], {})
        modes.setdefault((row["mode"], row["view"]), []).append(row)
    return found


def _print_mode(name: str, mode: str, alone: Sequence[Row], rows: Sequence[Row]) -> None:
    """How well two probes of one worker predict one of eight, data parallel or sharded."""
    columns, peaks = table_of(alone)
    tried = [0, len(peaks) // 2]
    model = MemoryRegressor().fit(
        take(columns, tried), peaks[tried], state=state_of(alone), context_bytes=0.0
    )
    asked, found = table_of(rows, workers=8.0)
    q = model.predict_distribution(asked)
    if mode == "fsdp8":
        unit = float(rows[0]["largest_unit_bytes"])
        q = predict_sharded(model, asked, stage=3, largest_unit_bytes=unit)
    errors = " ".join(f"{100 * e:+6.1f}" for e in q[:, I50] / found - 1)
    inside = ((q[:, I05] <= found) & (found <= q[:, I95])).mean()
    print(f"  {name:14s} {mode:6s} inside {inside:4.0%}  errors % {errors}")


def _print_scores(scores: dict[str, Score]) -> None:
    for name, one in scores.items():
        told = " ".join(f"{100 * e:+6.1f}" for e in one.errors)
        print(f"  {name:14s} inside {np.mean(one.inside):4.0%}  errors % {told}")
    errors = [np.mean(np.abs(one.errors)) for one in scores.values()]
    covered = [np.mean(one.inside) for one in scores.values()]
    wide = np.mean([one.halfwidth for one in scores.values()])
    print(
        f"  MAPE {np.mean(errors):.1%} (of the median workload {np.median(errors):.1%}), ", end=""
    )
    print(f"inside {np.mean(covered):.0%}, worst {np.min(covered):.0%}, half-width {wide:.0%}")
    chances = np.asarray([pair for one in scores.values() for pair in one.chances])
    edges = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0001)
    brier = np.mean((chances[:, 0] - chances[:, 1]) ** 2)
    print(f"  P(out of memory): Brier score {brier:.3f}; said / seen (how often)", end="")
    for low, high in pairwise(edges):
        part = chances[(chances[:, 0] >= low) & (chances[:, 0] < high)]
        if len(part):
            print(f"  {part[:, 0].mean():.2f}/{part[:, 1].mean():.2f} ({len(part)})", end="")
    print(flush=True)
