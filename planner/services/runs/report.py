"""The final report: what was predicted, what came of it, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from planner.core.adjust import Adjustment
from planner.core.distribution import Distribution
from planner.core.plan import Plan
from planner.core.prediction import Interval
from planner.core.replicas import layout_text
from planner.core.types import Option, RunState
from planner.core.units import format_duration
from planner.store.codec import datetime_text, to_json
from planner.store.record import RunRecord

SCHEMA = "planner.report/1"


def build_report(plan: Plan, record: RunRecord, now: datetime) -> dict[str, Any]:
    """The report of a run as plain JSON values. Money in dollars, times in seconds.

    The real total counts from the agreement to the end, time spent paused left out, since that is
    what the prediction was about.
    """
    option = plan.option
    total_s = record.total_s(now)
    spent_usd = record.spent_microusd / 1e6
    done = record.state is RunState.DONE
    late_s = None
    if record.deadline_at is not None and record.ended_at is not None:
        late_s = max(0.0, (record.ended_at - record.deadline_at).total_seconds())
    return {
        "schema": SCHEMA,
        "run_id": plan.run_id,
        "name": plan.name,
        "state": record.state.value,
        "reason": record.reason,
        "option": {"id": option.id, "text": option_text(option)},
        "resources": to_json(option.resources),
        "knobs": to_json(option.knobs),
        "work": to_json(plan.work),
        "created_at": _time(record.created_at),
        "started_at": _time(record.started_at),
        "ended_at": _time(record.ended_at),
        "deadline_at": _time(record.deadline_at),
        "late_s": late_s,
        "time_s": _against(option.total_s, total_s if done else None, option.total_interval),
        "cost_usd": _against(option.cost_usd, spent_usd if done else None, option.cost_interval),
        "memory_bytes": _against(option.memory_bytes, record.peak_memory_bytes, None),
        "total_s": total_s,
        "spent_usd": spent_usd,
        "budget_usd": None if record.budget_microusd is None else record.budget_microusd / 1e6,
        "held_s": round(record.held_s, 3),
        "idle_s": round(record.idle_s, 3),
        "times_s": dict(sorted(record.times_s.items())),
        "steps": record.step,
        "steps_total": record.steps_total,
        "steps_redone": record.steps_redone,
        "samples_per_s": _mean_rate(plan, record),
        "planned_samples_per_s": option.throughput_samples_per_s.p50,
        **_course(record),
        "line": summary_line(plan, record, now),
    }


def _course(record: RunRecord) -> dict[str, Any]:
    """What happened on the way, and what the script said of itself."""
    return {
        "attempts": record.attempt,
        "interruptions": record.interruptions,
        "checkpoints": _checkpoints(record),
        "metrics": dict(sorted(record.metrics.items())),
        "best": {name: {"min": lo, "max": hi} for name, (lo, hi) in sorted(record.best.items())},
        "means": {name: _mean(record, name) for name in ("cpu", "gpu", "loader_wait")},
        "adjustments": [_adjustment(change) for change in record.adjust.changes],
        "in_force": to_json(record.adjust.in_force),
        "decisions": [to_json(decision) for decision in record.decisions.values()],
        "warnings": list(record.warnings),
        "log": list(record.failure_log),
    }


def _adjustment(change: Adjustment) -> dict[str, Any]:
    return {name: value for name, value in to_json(change).items() if name != "wish"}


def option_text(option: Option) -> str:
    """An option in a few words: `2 x cpu local, micro-batch 32`."""
    shape = option.resources
    where = " ".join(part for part in (shape.instance_type, shape.zone) if part)
    place = where or shape.runner
    market = "" if shape.market == "local" else f" {shape.market}"
    text = f"{shape.workers} x {shape.device} {place}{market}"
    if layout := layout_text(option.knobs):
        text = f"{text}, {layout}"
    return f"{text}, micro-batch {option.knobs.micro_batch}" if option.knobs.micro_batch else text


def within(interval: Interval | Distribution, value: float) -> bool:
    """Whether a real value fell into the predicted 90 % interval."""
    lo, hi = (
        (interval.lo, interval.hi) if isinstance(interval, Interval) else interval.interval(0.9)
    )
    return lo <= value <= hi


def summary_line(plan: Plan, record: RunRecord, now: datetime) -> str:
    """The run in one line, for the end of `planner run`."""
    from planner.core.units import format_money

    total_s = record.total_s(now) or 0.0
    predicted, cost = plan.option.total_s, plan.option.cost_usd
    parts = [
        f"{plan.run_id} {record.state.value.replace('_', ' ')}",
        f"time {format_duration(total_s)} (predicted {format_duration(predicted.p50)}, "
        f"{format_duration(predicted.p05)} to {format_duration(predicted.p95)})",
        f"cost {format_money(record.spent_microusd / 1e6)} (predicted {format_money(cost.p50)})",
    ]
    parts += [f"{name} {value:.4g}" for name, value in _headline(record.metrics)]
    return "  ".join(parts)


def _headline(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """What a training run is judged by: accuracies before losses, test before validation."""
    ranked = sorted(metrics, key=lambda name: (_rank(name), name))
    return [(name, metrics[name]) for name in ranked if _rank(name) < 4][:1]


def _rank(name: str) -> int:
    low = name.lower()
    test, valid = "test" in low, "val" in low
    if "acc" in low or "top" in low:
        return 0 if test else 1
    return 2 if test else 3 if valid else 4


def _against(
    predicted: Distribution, real: float | None, interval: Interval | None
) -> dict[str, Any]:
    """A prediction beside what was measured; `within` and `error` are null until it is known."""
    bounds = interval or predicted
    lo, hi = (bounds.lo, bounds.hi) if isinstance(bounds, Interval) else bounds.interval(0.9)
    known = real is not None and predicted.p50 > 0
    return {
        "predicted": {
            "p05": predicted.p05,
            "p50": predicted.p50,
            "p95": predicted.p95,
            "mean": predicted.mean,
        },
        "interval": {"level": interval.level if interval else 0.9, "lo": lo, "hi": hi},
        "real": real,
        "within": None if real is None else lo <= real <= hi,
        "error": (real / predicted.p50 - 1) if known and real is not None else None,
        "evidence": predicted.evidence,
    }


def _checkpoints(record: RunRecord) -> dict[str, Any]:
    last = record.checkpoint
    return {
        "count": record.checkpoints,
        "failed": record.checkpoint_failures,
        "bytes": record.checkpoint_bytes,
        "last": None
        if last is None
        else {
            "at": _time(last.at),
            "step": last.step,
            "path": last.path,
            "bytes": last.bytes,
            "duration_s": last.duration_s,
        },
    }


def _mean_rate(plan: Plan, record: RunRecord) -> float | None:
    """Samples trained per second of stepping, over the whole run."""
    stepping_s = record.times_s.get("steps", 0.0) + record.times_s.get("loading", 0.0)
    trained = record.samples + record.samples_redone
    if not record.samples:
        trained = (record.step + record.steps_redone) * plan.option.knobs.global_batch
    return trained / stepping_s if stepping_s > 0 and trained else None


def _mean(record: RunRecord, name: str) -> float | None:
    series = record.series.get(name)
    return sum(series.values) / len(series.values) if series and series.values else None


def _time(at: datetime | None) -> str | None:
    return None if at is None else datetime_text(at)
