"""From predictions to options: scored against the goal, ranked, with the pick and its reasons."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import ceil

from planner.core import explain
from planner.core.choose import (
    RowFlip,
    Scores,
    Table,
    Terms,
    flips,
    front_of,
    score,
    terms_of,
)
from planner.core.distribution import Distribution
from planner.core.job import Goal, Prefer
from planner.core.prediction import Interval, Prediction
from planner.core.recommendation import Flip, Recommendation
from planner.core.replicas import identity
from planner.core.types import (
    EstimateResult,
    Knobs,
    Offer,
    Option,
    Reason,
    ResourceConfig,
    WorkLoad,
)

RULES: dict[Prefer, str] = {
    "cost": "min_expected_cost_subject_to_chance_constraints",
    "time": "min_expected_time_subject_to_chance_constraints",
    "risk": "min_risk_subject_to_chance_constraints",
}

INTERVAL_LEVEL = 0.9

_ID_FIELDS = (
    "runner",
    "pool",
    "instance_type",
    "region",
    "zone",
    "market",
    "nodes",
    "workers_per_node",
    "gpus_per_node",
    "gpu",
    "vcpus_per_node",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration that could be had, and what it would do with the job."""

    resources: ResourceConfig
    knobs: Knobs
    offer: Offer
    prediction: Prediction


def option_id(resources: ResourceConfig, knobs: Knobs) -> str:
    """`o` and a short hash: the same for the same resources and knobs, whatever else changed."""
    shape = {name: getattr(resources, name) for name in _ID_FIELDS}
    turned = identity(asdict(knobs))
    turned["checkpoint_interval_s"] = float(knobs.checkpoint_interval_s)
    text = json.dumps([shape, turned], sort_keys=True)
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
    return f"o{digest[:7]}"


def build_options(
    candidates: Sequence[Candidate], work: WorkLoad, goal: Goal, now: datetime
) -> tuple[tuple[Option, ...], Recommendation]:
    """Score and rank; the options come best first.

    Of a configuration that is offered twice, the cheaper offer counts.

    Args:
        candidates: What could be had.
        work: The whole job.
        goal: What is asked for.
        now: When a deadline that is a time is measured from.

    """
    unique: dict[str, Candidate] = {}
    for candidate in candidates:
        key = option_id(candidate.resources, candidate.knobs)
        known = unique.get(key)
        if known is None or candidate.offer.price.usd_per_h < known.offer.price.usd_per_h:
            unique[key] = candidate
    options = [_unscored(key, candidate, work) for key, candidate in unique.items()]
    return rescore_options(options, goal, now)


def rescore_options(
    options: Sequence[Option], goal: Goal, now: datetime
) -> tuple[tuple[Option, ...], Recommendation]:
    """The same options under another goal: only chances, ranks, reasons and the pick change."""
    terms = terms_of(goal, now)
    rule = RULES[goal.prefer]
    if not options:
        text = explain.recommendation_text(terms, None, None)
        return (), Recommendation(option_id=None, rule=rule, text=text)
    table = table_of(options)
    scores = score(table, terms)
    ranked = _ranked(options, terms, scores)
    pick = ranked[0] if scores.pick is not None else None
    return ranked, Recommendation(
        option_id=pick.id if pick else None,
        rule=rule,
        text=explain.recommendation_text(terms, pick, ranked[0]),
        flips=tuple(_flip(f, options) for f in flips(table, terms, scores)),
    )


def rescored(estimate: EstimateResult, goal: Goal, now: datetime) -> EstimateResult:
    """The same estimate under another goal, as that stands at `now`.

    One without options keeps its recommendation, which says why there are none. What another probe
    would buy hangs on the goal, and is not known of this one.
    """
    known = estimate.next_probe if goal == estimate.goal else None
    result = replace(estimate, goal=goal, rescored_at=now, next_probe=known)
    if not estimate.options:
        return result
    options, recommendation = rescore_options(estimate.options, goal, now)
    return replace(result, options=options, recommendation=recommendation)


# ---- distributions ---------------------------------------------------------------------------


def _unscored(key: str, candidate: Candidate, work: WorkLoad) -> Option:
    prediction = candidate.prediction
    return Option(
        id=key,
        resources=candidate.resources,
        knobs=candidate.knobs,
        price=candidate.offer.price,
        wait_s=candidate.offer.wait_s,
        run_s=prediction.run_s,
        total_s=prediction.total_s,
        cost_usd=prediction.cost_usd,
        memory_bytes=prediction.memory_bytes,
        memory_parts=prediction.memory_parts,
        throughput_samples_per_s=_throughput(prediction.step_time_s, candidate.knobs, work),
        total_interval=_interval(prediction.total_s, prediction),
        cost_interval=_interval(prediction.cost_usd, prediction),
        p_oom=prediction.p_oom,
        p_deadline=None,
        p_budget=None,
        bottleneck=prediction.bottleneck,
        expected_interruptions=prediction.interruptions,
        evidence=prediction.evidence,
        rank=1,
        on_front=False,
        dominated_by=None,
        feasible=False,
    )


def _throughput(step_time_s: Distribution, knobs: Knobs, work: WorkLoad) -> Distribution:
    """Samples per second of steady training: mean samples of a step over its time.

    The last step of an epoch is smaller, hence the mean. Levels are symmetric, so the quantiles of
    the reciprocal are the reciprocals in reverse order.
    """
    steps = max(1, ceil(work.samples / knobs.global_batch))
    per_step = work.samples / steps
    return Distribution(
        quantiles=tuple(per_step / max(q, 1e-9) for q in reversed(step_time_s.quantiles)),
        evidence=step_time_s.evidence,
    )


def _interval(distribution: Distribution, prediction: Prediction) -> Interval:
    return Interval(
        level=INTERVAL_LEVEL,
        lo=distribution.p05,
        hi=distribution.p95,
        method=prediction.interval_method,
        calibrated=prediction.calibrated,
        n_calibration=prediction.n_calibration,
    )


# ---- scores ----------------------------------------------------------------------------------


def table_of(options: Sequence[Option]) -> Table:
    """Options as the columns that they are scored by."""
    import numpy as np

    places: dict[tuple[str | None, ...], int] = {}
    place = [places.setdefault(_place(o.resources), len(places)) for o in options]
    by_size = sorted(
        range(len(options)), key=lambda i: (options[i].resources.workers, options[i].id)
    )
    tie = np.empty(len(options), dtype=np.intp)
    tie[by_size] = np.arange(len(options))
    return Table(
        total_s=np.asarray([o.total_s.quantiles for o in options]),
        cost_usd=np.asarray([o.cost_usd.quantiles for o in options]),
        p_oom=np.asarray([o.p_oom for o in options]),
        usd_per_h=np.asarray([o.price.usd_per_h for o in options]),
        place=np.asarray(place, dtype=np.intp),
        tie=tie,
    )


def _place(r: ResourceConfig) -> tuple[str | None, ...]:
    return (r.runner, r.pool, r.instance_type, r.region, r.zone, r.market)


def _ranked(options: Sequence[Option], terms: Terms, scores: Scores) -> tuple[Option, ...]:
    on_front, dominated_by = front_of(scores)
    ranked = []
    for rank, row in enumerate(scores.order.tolist(), start=1):
        option = options[row]
        p_deadline = None if scores.p_deadline is None else float(scores.p_deadline[row])
        p_budget = None if scores.p_budget is None else float(scores.p_budget[row])
        by = int(dominated_by[row])
        ranked.append(
            replace(
                option,
                p_deadline=p_deadline,
                p_budget=p_budget,
                rank=rank,
                on_front=bool(on_front[row]),
                dominated_by=options[by].id if by >= 0 else None,
                feasible=bool(scores.feasible[row]),
                reasons=_reasons(option, terms, scores, row),
            )
        )
    return tuple(ranked)


def _reasons(option: Option, terms: Terms, scores: Scores, row: int) -> tuple[Reason, ...]:
    reasons = []
    if not scores.fits[row]:
        reasons.append(explain.oom_reason(option.p_oom))
    if scores.p_deadline is not None and not scores.in_time[row]:
        p = float(scores.p_deadline[row])
        reasons.append(explain.deadline_reason(p, option.total_s, terms))
    if scores.p_budget is not None and not scores.in_budget[row]:
        p = float(scores.p_budget[row])
        reasons.append(explain.budget_reason(p, option.cost_usd, terms))
    return tuple(reasons)


def _flip(flip: RowFlip, options: Sequence[Option]) -> Flip:
    """A flip by option ids. A deadline counts from now, as one does that is stated now."""
    return Flip(
        to=options[flip.to].id,
        variable=flip.variable,
        op=flip.op,
        value=flip.value,
        unit=flip.unit,
    )
