"""Trials that fitted into memory or ran out of it, and what they say whatever a law says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index, Table

_SURPRISE = 0.03
"""P(out of memory) of what ran well before, and 1 less that of what ran out of it: trials are
short, and a machine can be fuller tomorrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of one trial: it fitted into so much memory, or did not.

    Attributes:
        micro_batch: Samples of each worker's pass.
        several: Whether there were several workers with data of their own.
        capacity_bytes: What a worker could use.
        failed: Whether that was not enough.
    """

    micro_batch: float
    several: bool
    capacity_bytes: float
    failed: bool


def trials_of(columns: Table, capacity: Array, failed: Index) -> tuple[Trial, ...]:
    """What is known to fit and not to fit.

    Args:
        columns: `workers` and `micro_batch`, n of each.
        capacity: Bytes, shape (n,); those that are no number say nothing.
        failed: Where the trial ran out of memory.
    """
    return tuple(
        Trial(
            micro_batch=float(columns["micro_batch"][i]),
            several=bool(columns["workers"][i] > 1),
            capacity_bytes=float(capacity[i]),
            failed=bool(failed[i]),
        )
        for i in range(len(capacity))
        if np.isfinite(capacity[i]) and capacity[i] > 0
    )


def bounded(risk: Array, trials: Sequence[Trial], columns: Table, capacity: Array) -> Array:
    """P(out of memory) as far as trials leave it open, shape (n,).

    Args:
        risk: What it is without them, shape (n,).
        trials: Of the same job on the same kind of machine.
        columns: `workers` and `micro_batch`, n of each.
        capacity: What a worker may use, bytes, shape (n,); infinite where nothing limits it.
    """
    failed, fitted = (_tried(trials, columns, capacity, failed=f) for f in (True, False))
    risk = np.where(failed, np.maximum(risk, 1 - _SURPRISE), risk)
    risk = np.where(fitted, np.minimum(risk, _SURPRISE), risk)
    risk = np.where(failed & fitted, 0.5, risk)
    return np.where(np.isfinite(capacity), risk, 0.0)


def _tried(trials: Sequence[Trial], columns: Table, capacity: Array, *, failed: bool) -> Index:
    """Where a trial that failed had no more work and no less memory, or one that fitted."""
    known = np.zeros(len(columns["workers"]), bool)
    several = columns["workers"] > 1
    for trial in trials:
        if trial.failed != failed:
            continue
        sign = 1 if failed else -1
        harder = sign * columns["micro_batch"] >= sign * trial.micro_batch
        fuller = sign * capacity <= sign * trial.capacity_bytes
        beside = several >= trial.several if failed else several <= trial.several
        known |= harder & fuller & beside
    return known
