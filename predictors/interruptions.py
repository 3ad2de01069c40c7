"""Runs that are interrupted: what preemptions add to a running time, as quantiles.

Interruptions come as a Poisson process while the job runs. Each one loses the work since the last
checkpoint, half an interval on average (J. W. Young, "A first order approximation to the optimum
checkpoint interval", 1974; J. T. Daly, "A higher order estimate...", 2006), and the time to start
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import LEVELS, add_independent, mean

if TYPE_CHECKING:
    from planner.core.distribution import Array

RESTART_S = 120.0
"""From an interruption to the first step after it, until a job's own restarts were measured."""

MAX_INTERRUPTIONS = 500.0
"""More than so many in one run are counted as so many: nobody would choose such an option."""


def interrupted(
    run_s: Array, *, per_h: Array, checkpoint_interval_s: Array, restart_s: float = RESTART_S
) -> tuple[Array, Array]:
    """Add interruptions to running times; see the module's text for the formula.

    Args:
        run_s: Quantiles of the running time without them, s, shape (n, len(LEVELS)).
        per_h: Expected interruptions per hour of running, shape (n,).
        checkpoint_interval_s: Shape (n,). 0 stands for none but the last checkpoint: all the work
            of a run is then lost with an interruption, half of it on average.
        restart_s: From an interruption to the first step after it.

    Returns:
        Quantiles of the running time with them, s, shape (n, len(LEVELS)), and how many are
        expected, shape (n,).
    """
    running = mean(run_s)
    expected = np.minimum(per_h * running / 3600, MAX_INTERRUPTIONS)
    risky = expected > 0
    run = run_s
    if risky.any():
        run = run_s.copy()
        since = np.where(checkpoint_interval_s > 0, checkpoint_interval_s, running)[risky]
        loss_s = np.minimum(since, running[risky]) / 2 + restart_s
        extra = poisson_quantiles(expected[risky]) * loss_s[:, None]
        run[risky] = ordered(add_independent(run_s[risky], extra))
    return run, expected


def poisson_quantiles(expected: Array) -> Array:
    """Quantiles of a Poisson count with the given means, shape (n, len(LEVELS))."""
    levels = np.asarray(LEVELS)
    probability = np.exp(-expected)
    cumulative = probability.copy()
    counts = np.zeros((expected.shape[0], len(LEVELS)))
    count = 0
    while True:
        missing = cumulative[:, None] < levels
        if not missing.any():
            return counts
        counts += missing
        count += 1
        probability = probability * expected / count
        cumulative = cumulative + probability


def ordered(quantiles: Array) -> Array:
    """Quantiles that do not decrease, whatever the last bit of a square root was rounded to."""
    result: Array = np.maximum.accumulate(quantiles, axis=1)
    return result
