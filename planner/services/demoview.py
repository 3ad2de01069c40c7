"""A recorded journal, up to some moment, as the views that the screens show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from planner.core.distribution import LEVELS, Distribution
from planner.core.events import Event
from planner.core.types import TERMINAL_STATES, Option, Plan
from planner.core.units import from_microusd
from planner.services.api import Comparison, ComparisonRow, RunSummary, RunView, Series
from planner.store.record import RunRecord


def view_of(plan: Plan, events: Sequence[Event], now: datetime) -> RunView:
    """What the events say at `now`, of a run with that plan."""
    record = RunRecord.replay(events)
    elapsed_s = record.total_s(now) or 0.0
    eta = _eta(record)
    spent_usd = from_microusd(record.spent_microusd)
    goal = plan.goal
    p_deadline = (
        eta.prob_below(goal.deadline_s - elapsed_s) if eta and goal.deadline_s is not None else None
    )
    at_end = eta.scaled(record.usd_per_h / 3600).shifted(spent_usd) if eta else None
    p_budget = at_end.prob_below(goal.budget_usd) if at_end and goal.budget_usd else None
    checkpoint = record.checkpoint
    return RunView(
        summary=_summary(plan, record, elapsed_s, spent_usd),
        plan=plan,
        step=record.step,
        steps_total=record.steps_total,
        epoch=record.epoch,
        epochs=record.epochs or plan.work.epochs,
        samples_per_s=record.samples_per_s,
        loader_wait_fraction=record.loader_wait,
        usd_per_h=record.usd_per_h,
        elapsed_s=elapsed_s,
        eta_s=eta,
        cost_at_end_usd=at_end,
        p_deadline=p_deadline,
        p_budget=p_budget,
        last_checkpoint_at=checkpoint.at if checkpoint else None,
        last_checkpoint_bytes=checkpoint.bytes if checkpoint else None,
        attempts=record.attempt,
        series={
            name: Series(at_s=tuple(buffer.at_s), values=tuple(buffer.values))
            for name, buffer in record.series.items()
        },
        metrics=dict(record.metrics),
        decisions=tuple(record.decisions.values()),
        warnings=tuple(record.warnings),
    )


def _eta(record: RunRecord) -> Distribution | None:
    known = record.eta_quantiles
    if known is None or len(known) != len(LEVELS):
        return None
    return Distribution(quantiles=known, evidence="probe")


def _summary(plan: Plan, record: RunRecord, elapsed_s: float, spent_usd: float) -> RunSummary:
    over = record.state in TERMINAL_STATES
    low, high = plan.option.total_interval.lo, plan.option.total_interval.hi
    option = plan.option
    knobs = option.knobs
    return RunSummary(
        id=plan.run_id,
        name=plan.name,
        state=record.state,
        created_at=plan.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        option_text=f"{option.resources.workers} x {option.resources.device}, "
        f"batch {knobs.micro_batch}" + (f"x{knobs.accumulation}" if knobs.accumulation > 1 else ""),
        progress=record.progress,
        spent_usd=spent_usd,
        budget_usd=plan.goal.budget_usd,
        total_s=elapsed_s if over else None,
        predicted_total_s=option.total_s,
        predicted_cost_usd=option.cost_usd,
        late=plan.goal.deadline_s is not None and elapsed_s > plan.goal.deadline_s,
        within_interval=low <= elapsed_s <= high if over else None,
        supervisor_alive=not over,
        reason=record.reason,
    )


def compare_views(views: Sequence[RunView]) -> Comparison:
    """Runs side by side; the change is that of the last against the first."""
    rows = [
        _row("time", "s", [v.summary.total_s or v.elapsed_s for v in views]),
        _row("cost", "usd", [v.summary.spent_usd for v in views]),
        _row("predicted time", "s", [v.summary.predicted_total_s.p50 for v in views]),
        _row("samples/s", "", [_mean(v, "samples_per_s") for v in views]),
        _row("loader wait", "fraction", [_mean(v, "loader_wait") for v in views]),
        _row("peak memory", "bytes", [_peak(v, "memory_bytes") for v in views]),
        *(
            _row(name, "", [v.metrics.get(name) for v in views])
            for name in sorted(set(views[0].metrics).intersection(*(v.metrics for v in views)))
        ),
        _row("decisions", "", [float(len(v.decisions)) for v in views]),
    ]
    works = {(v.plan.work.samples, v.plan.work.epochs, v.plan.work.fingerprint) for v in views}
    return Comparison(
        subjects=tuple(v.summary.id for v in views),
        rows=tuple(rows),
        same_work=len(works) == 1,
        differences=() if len(works) == 1 else ("the runs do not do the same work",),
    )


def compare_options(options: Sequence[Option]) -> Comparison:
    """Options side by side."""
    return Comparison(
        subjects=tuple(f"option {o.rank}" for o in options),
        rows=(
            _row("workers", "", [float(o.resources.workers) for o in options]),
            _row("micro-batch", "", [float(o.knobs.micro_batch) for o in options]),
            _row("time p50", "s", [o.total_s.p50 for o in options]),
            _row("time p95", "s", [o.total_s.p95 for o in options]),
            _row("cost p50", "usd", [o.cost_usd.p50 for o in options]),
            _row("cost p95", "usd", [o.cost_usd.p95 for o in options]),
            _row("P(deadline)", "", [o.p_deadline for o in options]),
            _row("P(budget)", "", [o.p_budget for o in options]),
            _row("memory p95", "bytes", [o.memory_bytes.p95 for o in options]),
        ),
        same_work=True,
    )


def _row(name: str, unit: str, values: Sequence[float | None]) -> ComparisonRow:
    first, last = values[0], values[-1]
    change = (last - first) / first if first and last is not None else None
    return ComparisonRow(name=name, values=tuple(values), unit=unit, change=change)


def _mean(view: RunView, name: str) -> float | None:
    series = view.series.get(name)
    return sum(series.values) / len(series.values) if series and series.values else None


def _peak(view: RunView, name: str) -> float | None:
    series = view.series.get(name)
    return max(series.values) if series and series.values else None
