"""Runs that are interrupted: what preemptions add to a running time, as quantiles.

Interruptions come as a Poisson process while the job runs. Each takes the job back to its last
checkpoint, and the stretch between two checkpoints is tried until it goes through once without one
(J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006,
section 2). With hazard h, stretches of t and T/t of them::

    failures  K ~ negative binomial of T/t successes, each of probability e^(-h t)
    lost      1/h - t / (e^(h t) - 1) of a stretch on average, and (e^(h R) - 1) / h to start again

so that their expected number is T/t (e^(h t) - 1): hardly more than h T while stretches are short,
and beyond all bounds where a long run saves nothing.
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

_LARGEST_LOG = 500.0
"""Of the odds that a stretch fails, as numbers beyond e^700 are none."""
_LEAST_INTERRUPTIONS = 1e-9
"""Fewer than so many in a whole run are none."""
_SHORTEST_S = 1.0
"""Checkpoints are no closer than that."""
_RARE = 1e-6
"""Interruptions of one stretch up to which the time lost is half of it, to rounding."""


def interrupted(
    run_s: Array, *, per_h: Array, checkpoint_interval_s: Array, restart_s: float = RESTART_S
) -> tuple[Array, Array]:
    """Add interruptions to running times; see the module's text for the formula.

    Args:
        run_s: Quantiles of the running time without them, s, shape (n, len(LEVELS)).
        per_h: Expected interruptions per hour of running, shape (n,).
        checkpoint_interval_s: Shape (n,). 0 stands for none but the last checkpoint: each
            interruption then loses all that has run.
        restart_s: From an interruption to the first step after it.

    Returns:
        Quantiles of the running time with them, s, shape (n, len(LEVELS)), and how many are
        expected, shape (n,).
    """
    running = mean(run_s)
    risky = per_h * running / 3600 > _LEAST_INTERRUPTIONS
    expected, run = np.zeros(len(running)), run_s
    if risky.any():
        hazard, work = per_h[risky] / 3600, running[risky]
        interval = checkpoint_interval_s[risky]
        stretch = np.where(interval > 0, np.minimum(np.maximum(interval, _SHORTEST_S), work), work)
        rate = hazard * stretch
        odds = np.expm1(np.minimum(rate, _LARGEST_LOG))
        lost_s = np.where(rate > _RARE, 1 / hazard - stretch / odds, stretch / 2)
        again_s = np.expm1(np.minimum(hazard * restart_s, _LARGEST_LOG)) / hazard
        stretches = work / stretch
        expected[risky] = np.minimum(stretches * odds, MAX_INTERRUPTIONS)
        extra = failures(stretches, odds) * (lost_s + again_s)[:, None]
        run = run_s.copy()
        run[risky] = ordered(add_independent(run_s[risky], extra))
    return run, expected


def failures(successes: Array, odds: Array) -> Array:
    """Quantiles of how often one fails before so many successes, at most `MAX_INTERRUPTIONS`.

    Args:
        successes: Shape (n,); need not be whole.
        odds: Probability of a failure over that of a success, shape (n,).

    Returns:
        Shape (n, len(LEVELS)).
    """
    levels = np.asarray(LEVELS)
    failing = odds / (1 + odds)
    probability = np.exp(-successes * np.log1p(odds))
    cumulative = probability.copy()
    counts = np.zeros((len(successes), len(LEVELS)))
    for count in range(int(MAX_INTERRUPTIONS)):
        missing = cumulative[:, None] < levels
        if not missing.any():
            break
        counts += missing
        probability = probability * failing * (successes + count) / (count + 1)
        cumulative = cumulative + probability
    return counts


def ordered(quantiles: Array) -> Array:
    """Quantiles that do not decrease, whatever the last bit of a square root was rounded to."""
    result: Array = np.maximum.accumulate(quantiles, axis=1)
    return result
