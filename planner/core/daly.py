"""How often to write a checkpoint: what it costs against the work that an interruption loses.

Interruptions come as a Poisson process with the mean time M between them; a checkpoint makes
training stand still for the time C. The best time tau of training between two checkpoints is

* J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
  the ACM 17(9), 1974: sqrt(2 C M);
* J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
  Generation Computer Systems 22(3), 2006, equation (37):
  sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + (C / 2M) / 9) - C where C < 2M, else M.

Both say tau without C itself. They differ little where C is small against M.
"""

from __future__ import annotations

import math

MINIMUM_S = 30.0
"""Orders are looked for about once a second; more often than this only wears the disk."""

MAXIMUM_S = 3600.0
"""Hazards are guesses: no guess may put more than an hour of work at risk."""

LEAST_COSTS = 5.0
"""The interval is at least so many times the cost, so that at most a sixth of the time goes into
checkpoints, whatever hazard was guessed."""

_NEVER_PER_S = 1e-15


def young_s(cost_s: float, between_s: float) -> float:
    """Young's first-order interval in seconds; see the module's text.

    Args:
        cost_s: How long training stands still for one checkpoint.
        between_s: Mean time between interruptions of the whole job.
    """
    return math.sqrt(2 * cost_s * between_s)


def daly_s(cost_s: float, between_s: float) -> float:
    """Daly's higher-order interval in seconds; see the module's text.

    Args:
        cost_s: How long training stands still for one checkpoint.
        between_s: Mean time between interruptions of the whole job.
    """
    if cost_s >= 2 * between_s:
        return between_s
    ratio = cost_s / (2 * between_s)
    return young_s(cost_s, between_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s


def checkpoint_interval_s(
    cost_s: float,
    hazard_per_h: float,
    *,
    workers: int = 1,
    minimum_s: float = MINIMUM_S,
    maximum_s: float = MAXIMUM_S,
) -> float:
    """Training time between two checkpoints that loses least, in seconds.

    Daly's interval, kept at `LEAST_COSTS` times the cost and `minimum_s` or more, and at
    `maximum_s` or less; the maximum goes before the other two. It never falls when the cost rises,
    and never rises when the hazard does.

    Args:
        cost_s: How long training stands still for one checkpoint: `stall_s` of the `checkpoint`
            event. Where that is shorter than its `duration_s`, give the latter as `minimum_s`: the
            next one cannot start before.
        hazard_per_h: Interruptions per hour of one worker; 0 gives the maximum.
        workers: How many workers can be interrupted, each by itself; one takes all down.
        minimum_s: Lower bound.
        maximum_s: Upper bound.

    Raises:
        ValueError: A cost or hazard is negative or not finite, or there is no worker.
    """
    if not (math.isfinite(cost_s) and cost_s >= 0):
        raise ValueError(f"cost_s={cost_s} must be 0 or more")
    if not (math.isfinite(hazard_per_h) and hazard_per_h >= 0):
        raise ValueError(f"hazard_per_h={hazard_per_h} must be 0 or more")
    if workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more")
    hazard_per_s = hazard_per_h * workers / 3600
    best_s = daly_s(cost_s, 1 / hazard_per_s) if hazard_per_s > _NEVER_PER_S else maximum_s
    return min(maximum_s, max(best_s, minimum_s, LEAST_COSTS * cost_s))
