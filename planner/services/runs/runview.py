"""A run as the screens show it, made from its plan and its record. Pure."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from datetime import datetime

from planner.core.adjust import planned
from planner.core.distribution import Distribution
from planner.core.plan import Plan
from planner.core.types import RunState
from planner.services.api import RunSummary, RunView, Series
from planner.services.runs.report import option_text, within
from planner.store.record import RunRecord


def run_summary(
    plan: Plan, record: RunRecord, now: datetime, *, supervisor_alive: bool
) -> RunSummary:
    """A run in one line. `total_s` is known once it has ended for good."""
    record = _as_kept(record)
    over = record.ended and record.state is not RunState.PAUSED
    total_s = record.total_s(now) if over else None
    inside = None
    adjusted = was_adjusted(record)
    if record.state is RunState.DONE and total_s is not None and not adjusted:
        inside = within(plan.option.total_interval, total_s)
    deadline_at, end = record.deadline_at, record.ended_at if over else now
    return RunSummary(
        id=plan.run_id,
        name=plan.name,
        state=record.state,
        created_at=record.created_at or plan.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at if over else None,
        option_text=option_text(plan.option),
        progress=record.progress,
        spent_usd=record.spent_microusd / 1e6,
        budget_usd=None if record.budget_microusd is None else record.budget_microusd / 1e6,
        total_s=total_s,
        predicted_total_s=plan.option.total_s,
        predicted_cost_usd=plan.option.cost_usd,
        late=deadline_at is not None and end is not None and end > deadline_at,
        within_interval=inside,
        supervisor_alive=supervisor_alive,
        reason=record.reason,
        adjusted=adjusted,
        held_s=record.held_s,
        agreed_usd_per_h=plan.option.price.usd_per_h,
    )


def was_adjusted(record: RunRecord) -> bool:
    """Whether the run was changed on request, so that it is not the one that was predicted."""
    return any(c.reason == "asked" and c.step is not None for c in record.adjust.changes)


def with_limits(plan: Plan, record: RunRecord) -> Plan:
    """The plan with the cap, the deadline and the highest price as they are agreed to now."""
    goal = replace(
        plan.goal,
        deadline_at=record.deadline_at,
        budget_usd=None if record.budget_microusd is None else record.budget_microusd / 1e6,
    )
    now = record.adjust.in_force
    return replace(
        plan,
        goal=goal,
        budget_microusd=record.budget_microusd,
        max_usd_per_h=plan.max_usd_per_h if now is None else now.max_usd_per_h,
    )


def run_view(plan: Plan, record: RunRecord, now: datetime, *, supervisor_alive: bool) -> RunView:
    """A run in full. Its plan carries the cap and the deadline as they are after extensions.

    What is left and the chances to keep the limits are those of a run that somebody looks after.
    """
    record = _as_kept(record)
    eta_s = _eta(record, now) if supervisor_alive else None
    usd_per_h = record.usd_per_h if record.holding else 0.0
    cost_usd = _cost_at_end(record, eta_s, usd_per_h)
    last = record.checkpoint
    return RunView(
        summary=run_summary(plan, record, now, supervisor_alive=supervisor_alive),
        plan=with_limits(plan, record),
        step=record.step,
        steps_total=record.steps_total,
        epoch=record.epoch,
        epochs=plan.work.epochs if record.epochs is None else record.epochs,
        samples_per_s=record.samples_per_s if record.holding else None,
        loader_wait_fraction=record.loader_wait,
        usd_per_h=usd_per_h,
        elapsed_s=record.total_s(now if supervisor_alive else record.last_at or now) or 0.0,
        eta_s=eta_s,
        cost_at_end_usd=cost_usd,
        p_deadline=_p_deadline(record, eta_s, now) if supervisor_alive else None,
        p_budget=_p_budget(record, cost_usd) if supervisor_alive else None,
        last_checkpoint_at=last.at if last else None,
        last_checkpoint_bytes=last.bytes if last else None,
        attempts=record.attempt,
        series={
            name: Series(at_s=tuple(buffer.at_s), values=tuple(buffer.values))
            for name, buffer in record.series.items()
        },
        metrics=dict(record.metrics),
        decisions=tuple(record.decisions.values()),
        last_checkpoint_step=last.step if last else None,
        warnings=(*record.warnings, *_orphaned(plan, record, supervisor_alive)),
        in_force=record.adjust.in_force or planned(plan),
        crew=record.adjust.crew,
        adjustments=tuple(record.adjust.changes),
    )


def _as_kept(record: RunRecord) -> RunRecord:
    """A paused run is as far as its checkpoint: without one it starts from the beginning."""
    if record.state is not RunState.PAUSED or record.checkpoint is not None:
        return record
    kept = copy(record)
    kept.step = kept.epoch = kept.samples = 0
    kept.progress = 0.0
    return kept


def _orphaned(plan: Plan, record: RunRecord, supervisor_alive: bool) -> tuple[str, ...]:
    if supervisor_alive or record.ended:
        return ()
    return (f"nobody looks after this run any more: planner resume {plan.run_id}",)


def _eta(record: RunRecord, now: datetime) -> Distribution | None:
    """What is left, as last told, less the time since then."""
    if record.eta_quantiles is None or record.last_at is None:
        return None
    age_s = max(0.0, (now - record.last_at).total_seconds())
    try:
        return Distribution(
            quantiles=tuple(max(0.0, q - age_s) for q in record.eta_quantiles), evidence="probe"
        )
    except ValueError:
        return None


def _p_deadline(record: RunRecord, eta_s: Distribution | None, now: datetime) -> float | None:
    """Chance to be done in time: the guard's; from what is left where it has not looked yet."""
    if record.p_deadline is not None or eta_s is None or record.deadline_at is None:
        return record.p_deadline
    return eta_s.prob_below((record.deadline_at - now).total_seconds())


def _p_budget(record: RunRecord, cost_usd: Distribution | None) -> float | None:
    """Chance to end under the cap: the guard's; from the cost where it has not looked yet."""
    if record.p_budget is not None or cost_usd is None or record.budget_microusd is None:
        return record.p_budget
    return cost_usd.prob_below(record.budget_microusd / 1e6)


def _cost_at_end(
    record: RunRecord, eta_s: Distribution | None, usd_per_h: float
) -> Distribution | None:
    spent_usd = record.spent_microusd / 1e6
    if record.state is RunState.DONE:
        return Distribution.exactly(spent_usd)
    return None if eta_s is None else eta_s.scaled(usd_per_h / 3600).shifted(spent_usd)
