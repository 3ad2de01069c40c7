"""Runs that are interrupted: what preemptions add to a running time, as quantiles.

Interruptions come as a Poisson process while the job runs. Each takes the job back to its last
checkpoint, and the stretch between two checkpoints is tried until it goes through once without one
(J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006,
section 2). With hazard h, stretches of t and T/t of them::

    failures  K ~ negative binomial of T/t successes, each of probability e^(-h t)
    lost      1/h - t / (e^(h t) - 1) of a stretch on average, and (e^(h R) - 1) / h to start again

so that their expected number is T/t (e^(h t) - 1): hardly more than h T while stretches are short,
and beyond all bounds where a long run saves nothing. Many are not counted one by one: their
quantiles are those of a gamma distribution with the mean, variance and skewness of the counts.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import LEVELS, add_independent, mean

if TYPE_CHECKING:
    from planner.core.distribution import Array

RESTART_S = 120.0
"""From an interruption to the first step after it, until a job's own restarts were measured."""

LONGEST_S = 1e10
"""Interruptions add no more, three centuries, so that times stay dates: where the 99 % quantile of
what they add is beyond it, all of its quantiles are shortened in proportion."""
MOST_INTERRUPTIONS = 1e9
"""More are told as so many: a run that hardly ever finishes has more than there are years."""

_LARGEST_LOG = 300.0
"""Of the odds that a stretch, or a restart, fails, as products beyond e^700 are no numbers."""
_COUNTED = 100.0
"""Up to so many expected failures, each possible number of them is looked at."""
_MOST_MEANS = 5.0
"""The 99 % quantile over the mean of failures: at most log(100), of a single success."""
_CELLS = 256
_REACH = 6.0
"""Of a gamma distribution's cells, in standard deviations of its cube root to either side."""
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
        expected, shape (n,). Of runs that will hardly ever finish both are large but finite:
        see `LONGEST_S` and `MOST_INTERRUPTIONS`.
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
        extra = failures(stretches, odds) * (lost_s + again_s)[:, None]
        shown = LONGEST_S / np.maximum(extra[:, -1], LONGEST_S)
        expected[risky] = np.minimum(stretches * odds, MOST_INTERRUPTIONS)
        extra = extra * shown[:, None]
        run = run_s.copy()
        run[risky] = ordered(add_independent(run_s[risky], extra))
    return run, expected


def failures(successes: Array, odds: Array) -> Array:
    """Quantiles of how often one fails before so many successes.

    Args:
        successes: At least 1 each, shape (n,); need not be whole.
        odds: Probability of a failure over that of a success, shape (n,).

    Returns:
        Shape (n, len(LEVELS)).
    """
    few = successes * odds <= _COUNTED
    counts = np.empty((len(successes), len(LEVELS)))
    counts[few] = _counted(successes[few], odds[few])
    counts[~few] = _approximated(successes[~few], odds[~few])
    return counts


def _counted(successes: Array, odds: Array) -> Array:
    """The same from the probability of each number of failures."""
    levels = np.asarray(LEVELS)
    failing = odds / (1 + odds)
    probability = np.exp(-successes * np.log1p(odds))
    cumulative = probability.copy()
    counts = np.zeros((len(successes), len(LEVELS)))
    for count in range(ceil(_MOST_MEANS * _COUNTED)):
        missing = cumulative[:, None] < levels
        if not missing.any():
            break
        counts += missing
        probability = probability * failing * (successes + count) / (count + 1)
        cumulative = cumulative + probability
    return counts


def _approximated(successes: Array, odds: Array) -> Array:
    """The same from the gamma distribution of the same mean, variance and skewness.

    At the upper end of each count rather than rounded to one: a little more work then never takes
    less, neither where counting ends nor where quantiles are shortened in proportion.
    """
    mean_ = successes * odds
    lean = 1 + 2 * odds  # variance and skewness make the scale half of it
    shape = 4 * (mean_ / lean) * ((1 + odds) / lean)
    found = lean[:, None] / 2 * _gamma(shape) - (mean_ / lean)[:, None]
    result: Array = np.maximum(found + 0.5, 0.0)
    return result


def _gamma(shape: Array) -> Array:
    """Quantiles of gamma distributions of scale 1 from their cube root, which is nearly normal.

    Args:
        shape: Hardly less than 1, (n,).

    Returns:
        Shape (n, len(LEVELS)).
    """
    variance = 1 / (9 * shape)
    centre, reach = 1 - variance, _REACH * np.sqrt(variance)
    low = np.maximum(centre - reach, 0.0)[:, None]
    width = (centre + reach)[:, None] - low
    middles = low + width * (np.arange(_CELLS) + 0.5) / _CELLS
    a = shape[:, None]
    density = np.exp((3 * a - 1) * np.log(middles) - a * (middles**3 - 1))
    cumulative = np.zeros((len(shape), _CELLS + 1))
    cumulative[:, 1:] = np.cumsum(density, axis=1)
    cumulative /= cumulative[:, -1:]
    edges = low + width * np.arange(_CELLS + 1) / _CELLS
    roots = [np.interp(LEVELS, c, e) for c, e in zip(cumulative, edges, strict=True)]
    result: Array = a * np.reshape(roots, (len(shape), len(LEVELS))) ** 3
    return result


def ordered(quantiles: Array) -> Array:
    """Quantiles that do not decrease, whatever the last bit of a square root was rounded to."""
    result: Array = np.maximum.accumulate(quantiles, axis=1)
    return result
