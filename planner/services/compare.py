"""Runs, estimates and options side by side: the same quantities, and whether the work is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from planner.core.errors import NotFoundError, UsageError
from planner.core.job import JobSpec
from planner.core.plan import Plan
from planner.core.types import EstimateResult, Option, RunState, WorkLoad
from planner.services.api import Comparison, ComparisonRow, RunView
from planner.services.runs.launch import chosen
from planner.services.runs.report import option_text
from planner.store.record import RunRecord

Value = float | str | None


class Shelf(Protocol):
    """Where runs are looked up: those kept on disk, or those of a recording."""

    def resolve(self, reference: str) -> str:
        """The run id behind a reference. Raises `NotFoundError`."""

    def plan(self, run_id: str) -> Plan:
        """What was agreed to at launch."""

    def record(self, run_id: str) -> RunRecord:
        """What the run's journal has come to."""

    def view(self, run_id: str) -> RunView:
        """The run in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing to compare: its values by row name, and the work it is about."""

    name: str
    job: JobSpec
    work: WorkLoad
    option: Option
    values: Mapping[str, Value] = field(default_factory=dict)


_ROWS: tuple[tuple[str, str], ...] = (
    ("option", ""),
    ("state", ""),
    ("time", "s"),
    ("predicted time", "s"),
    ("cost", "usd"),
    ("predicted cost", "usd"),
    ("price", "usd_per_h"),
    ("throughput", "samples_per_s"),
    ("memory", "bytes"),
    ("cpu", "fraction"),
    ("gpu", "fraction"),
    ("loader wait", "fraction"),
    ("on time", "probability"),
    ("under budget", "probability"),
    ("attempts", "count"),
    ("interruptions", "count"),
    ("steps done twice", "count"),
    ("decisions", "count"),
)


def compare(
    references: Sequence[str], shelf: Shelf, load_estimate: Callable[[str], EstimateResult]
) -> Comparison:
    """Put two or more things side by side; see `planner.services.api.Services.compare`.

    `change` is the relative change from the first to the last, where both are amounts; counts of a
    few, such as attempts, have none.

    Raises:
        UsageError: There are fewer than two.
        NotFoundError: One of them does not exist.
    """
    if len(references) < 2:
        raise UsageError("comparing takes two or more", hint="planner compare A B")
    subjects = [_subject(reference, shelf, load_estimate) for reference in references]
    rows = [_row(name, unit, subjects) for name, unit in _ROWS]
    metrics = sorted({n for s in subjects for n in s.values if n.startswith("metric ")})
    rows += [_row(name, "", subjects) for name in metrics]
    shown = [row for row in rows if any(value is not None for value in row.values)]
    differences = _differences(subjects)
    return Comparison(
        subjects=tuple(subject.name for subject in subjects),
        rows=tuple(shown),
        same_work=not differences,
        differences=tuple(differences),
    )


def _subject(
    reference: str, shelf: Shelf, load_estimate: Callable[[str], EstimateResult]
) -> Subject:
    if reference.startswith("e-"):
        estimate_id, _, option_id = reference.partition("/")
        estimate = load_estimate(estimate_id)
        picked = option_id or estimate.recommendation.option_id
        if picked is None:
            raise NotFoundError(
                f"estimate {estimate_id} recommends no option",
                hint=f"name one: {estimate_id}/{estimate.options[0].id}"
                if estimate.options
                else "it has no options",
            )
        return _of_option(f"{estimate_id}/{picked}", estimate, chosen(estimate, picked))
    run_id = shelf.resolve(reference)
    return _of_run(run_id, shelf)


def _of_option(name: str, estimate: EstimateResult, option: Option) -> Subject:
    return Subject(
        name=name,
        job=estimate.job,
        work=estimate.work,
        option=option,
        values={
            "state": "estimate",
            **_planned(option),
            "throughput": option.throughput_samples_per_s.p50,
            "memory": option.memory_bytes.p50,
            "on time": option.p_deadline,
            "under budget": option.p_budget,
        },
    )


def _planned(option: Option) -> dict[str, Value]:
    return {
        "option": option_text(option),
        "predicted time": option.total_s.p50,
        "predicted cost": option.cost_usd.p50,
        "price": option.price.usd_per_h,
    }


def _of_run(run_id: str, shelf: Shelf) -> Subject:
    plan, record = shelf.plan(run_id), shelf.record(run_id)
    summary = shelf.view(run_id).summary
    total_s = summary.total_s if record.state is RunState.DONE else None
    return Subject(
        name=run_id,
        job=plan.job,
        work=plan.work,
        option=plan.option,
        values={
            "state": record.state.value,
            **_planned(plan.option),
            "time": total_s,
            "cost": summary.spent_usd,
            "throughput": _rate(record),
            "memory": record.peak_memory_bytes,
            "cpu": _mean(record, "cpu"),
            "gpu": _mean(record, "gpu"),
            "loader wait": _mean(record, "loader_wait"),
            "on time": _on_time(record),
            "attempts": float(record.attempt),
            "interruptions": float(record.interruptions),
            "steps done twice": float(record.steps_redone),
            "decisions": float(len(record.decisions)),
            **{f"metric {name}": value for name, value in record.metrics.items()},
        },
    )


def _on_time(record: RunRecord) -> Value:
    if record.deadline_at is None or record.ended_at is None:
        return None
    return "yes" if record.ended_at <= record.deadline_at else "no"


def _rate(record: RunRecord) -> float | None:
    return _mean(record, "samples_per_s")


def _mean(record: RunRecord, name: str) -> float | None:
    series = record.series.get(name)
    return sum(series.values) / len(series.values) if series and series.values else None


def _row(name: str, unit: str, subjects: Sequence[Subject]) -> ComparisonRow:
    values = tuple(subject.values.get(name) for subject in subjects)
    first, last = values[0], values[-1]
    change = None
    if isinstance(first, int | float) and isinstance(last, int | float) and first:
        change = last / first - 1 if unit != "count" else None
    return ComparisonRow(name=name, values=values, unit=unit, change=change)


def _differences(subjects: Sequence[Subject]) -> list[str]:
    """Where the work is not the same, in words; empty when it is."""
    found: list[str] = []
    sides: tuple[tuple[str, Callable[[Subject], object]], ...] = (
        ("code or data", lambda s: s.work.fingerprint),
        ("samples", lambda s: s.work.samples),
        ("epochs", lambda s: s.work.epochs),
        ("seed", lambda s: s.job.seed),
        ("global batch", lambda s: s.option.knobs.global_batch),
        ("precision", lambda s: s.option.knobs.precision),
    )
    for what, value in sides:
        seen = [value(subject) for subject in subjects]
        if len(set(seen)) > 1:
            text = " against ".join(_text(v) for v in dict.fromkeys(seen))
            found.append(f"{what}: {text}")
    return found


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
