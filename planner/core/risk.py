"""Total time and total cost of many options at once, from wait, run, interruptions and price.

All arrays are quantiles at `planner.core.distribution.LEVELS`, one row per option.

Interruptions come as a Poisson process while the job runs. Each one loses the work since the last
checkpoint, half an interval on average (J. W. Young, "A first order approximation to the optimum
checkpoint interval", 1974; J. T. Daly, "A higher order estimate...", 2006), and the time to start
again. The price of a spot market moves while the job runs: it is taken as log-normal around today's
price, with the spread of the last 24 hours; the product of two independent log-normal quantities
has logarithms that add.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from planner.core.distribution import LEVELS, Z, add_independent, mean

if TYPE_CHECKING:
    from planner.core.distribution import Array

RESTART_S = 120.0
"""From an interruption to the first step after it, until a job's own restarts were measured."""

MAX_INTERRUPTIONS = 500.0
"""More than so many in one run are counted as so many: nobody would choose such an option."""

_Z90 = NormalDist().inv_cdf(0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What options take and cost in the end.

    Attributes:
        run_s: Running time with interruptions, shape (n, len(LEVELS)).
        total_s: Wait and running time, same shape.
        cost_usd: Money, same shape. Waiting costs nothing.
        interruptions: Expected number of them, shape (n,).
    """

    run_s: Array
    total_s: Array
    cost_usd: Array
    interruptions: Array


def combine(
    *,
    wait_s: Array,
    run_s: Array,
    usd_per_h: Array,
    price_sigma: Array,
    interruptions_per_h: Array,
    checkpoint_interval_s: Array,
    restart_s: float = RESTART_S,
) -> Totals:
    """Combine independent parts into totals; see the module's text for the formulas.

    Args:
        wait_s: Until the job starts, shape (n, len(LEVELS)).
        run_s: Running time without interruptions, same shape.
        usd_per_h: Price now, shape (n,).
        price_sigma: Standard deviation of the logarithm of the price, shape (n,); see
            `price_sigma`.
        interruptions_per_h: While running, shape (n,).
        checkpoint_interval_s: Shape (n,).
        restart_s: From an interruption to the first step after it.

    """
    import numpy as np

    expected = np.minimum(interruptions_per_h * mean(run_s) / 3600, MAX_INTERRUPTIONS)
    risky = expected > 0
    run = run_s
    if risky.any():
        run = run_s.copy()
        loss_s = checkpoint_interval_s[risky] / 2 + restart_s
        extra = poisson_quantiles(expected[risky]) * loss_s[:, None]
        run[risky] = _ordered(add_independent(run_s[risky], extra))
    return Totals(
        run_s=run,
        total_s=_ordered(add_independent(wait_s, run)),
        cost_usd=_ordered(_cost(run, usd_per_h, price_sigma)),
        interruptions=expected,
    )


def price_sigma(p50_24h: Array, p90_24h: Array) -> Array:
    """Spread of a log-normal price from its median and 90 % quantile; 0 where one is NaN."""
    import numpy as np

    known = (p50_24h > 0) & (p90_24h > p50_24h)  # false for NaN
    ratio = np.divide(p90_24h, p50_24h, out=np.ones_like(p50_24h), where=known)
    result: Array = np.log(ratio) / _Z90
    return result


def poisson_quantiles(expected: Array) -> Array:
    """Quantiles of a Poisson count with the given means, shape (n, len(LEVELS))."""
    import numpy as np

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


def _cost(run_s: Array, usd_per_h: Array, sigma: Array) -> Array:
    import numpy as np

    cost: Array = run_s * (usd_per_h / 3600)[:, None]
    moving = (sigma > 0) & (usd_per_h > 0) & (run_s[:, 0] > 0)
    if moving.any():
        log_price = np.asarray(Z) * sigma[moving][:, None]
        cost[moving] = np.exp(add_independent(np.log(cost[moving]), log_price))
    return cost


def _ordered(quantiles: Array) -> Array:
    """Quantiles that do not decrease, whatever the last bit of a square root was rounded to."""
    import numpy as np

    result: Array = np.maximum.accumulate(quantiles, axis=1)
    return result
