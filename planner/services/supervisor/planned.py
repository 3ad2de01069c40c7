"""What a plan expects of a run: its steps, and the time of each."""

from __future__ import annotations

import math

from planner.core.plan import Plan

DRIFT_SIGMA = 0.02
"""Relative spread that never goes away: the rest of a run need not be like its past."""
_Z90 = 3.2897
"""p95 - p05 of a standard normal distribution."""


def planned_epoch_steps(plan: Plan) -> int | None:
    """Steps of one epoch; None where samples or batch are not known."""
    batch = plan.option.knobs.global_batch
    if batch <= 0 or plan.work.samples <= 0:
        return None
    return math.ceil(plan.work.samples / batch)


def planned_steps(plan: Plan) -> int | None:
    """Steps of all epochs; None as of `planned_epoch_steps`."""
    per_epoch = planned_epoch_steps(plan)
    return None if per_epoch is None else math.ceil(per_epoch * plan.work.epochs)


def planned_step_s(plan: Plan) -> tuple[float, float] | None:
    """The plan's step time and relative spread. Doubled, as plans are surer than they should be."""
    rate = plan.option.throughput_samples_per_s
    batch = plan.option.knobs.global_batch
    if rate.p05 <= 0 or batch <= 0:
        return None
    sigma = 2 * math.log(rate.p95 / rate.p05) / _Z90
    return batch / rate.p50, max(sigma, 2 * DRIFT_SIGMA)
