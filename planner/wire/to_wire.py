"""The one mapping from the domain to the wire: a rename inside shows here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from planner import __version__
from planner.core import types as domain
from planner.core.errors import ExitCode, PlannerError
from planner.core.events import Event
from planner.core.redact import redact
from planner.wire import adjust_v1, error_v1, estimate_v1, event_v1, house_v1, parts, run_v1
from planner.wire._base import Wire
from planner.wire._numbers import clip, finite, number, rounded, share

if TYPE_CHECKING:
    from planner.core.adjust import Expectation
    from planner.services.api import Check, Comparison, RunSummary, RunView
    from runners.base import Leftover

Document = dict[str, Any]
ModelT = TypeVar("ModelT", bound=Wire)


def estimate_document(result: domain.EstimateResult) -> Document:
    """`planner.estimate/1`."""
    goal = result.goal
    return _document(
        estimate_v1.Estimate(
            schema_=estimate_v1.SCHEMA,
            schema_minor=estimate_v1.MINOR,
            planner_version=__version__,
            estimate_id=result.id,
            created_at=result.scored_at,
            seed=result.seed,
            currency="USD",
            job=result.job.name,
            work=estimate_v1.Work(
                samples=round(result.work.samples * result.work.epochs),
                epochs=result.work.epochs,
                slice_fraction=result.work.slice_fraction,
                fingerprint=result.work.fingerprint,
            ),
            goal=estimate_v1.Goal(
                deadline_s=goal.deadline_s,
                deadline_at=goal.deadline_at,
                budget_usd=goal.budget_usd,
                confidence=goal.confidence,
                prefer=goal.prefer,
            ),
            recommendation=parts.recommendation(result.recommendation),
            options=[parts.option(o) for o in sorted(result.options, key=lambda o: (o.rank, o.id))],
            probes=[parts.probe(p) for p in result.probes],
            probe_cost_usd=result.probe_cost_usd,
            model=parts.model(result.model),
            warnings=[
                estimate_v1.Warning_(code=w.code, text=w.text, hint=w.hint) for w in result.warnings
            ],
            next_probe=None if result.next_probe is None else parts.next_probe(result.next_probe),
            probe_decisions=[parts.next_probe(n) for n in result.probe_decisions],
        )
    )


def error_document(error: BaseException) -> Document:
    """`planner.error/1`. Of an error that is not ours only the class is told: no values leak."""
    if isinstance(error, PlannerError):
        code, text, hint, exit_code = error.code, error.text, error.hint, error.exit_code
    else:
        code, exit_code = "internal", ExitCode.INTERNAL
        text, hint = f"internal error ({type(error).__name__})", None
    return failure_document(code=code, text=text, hint=hint, exit_code=exit_code)


def failure_document(*, code: str, text: str, hint: str | None, exit_code: int) -> Document:
    """`planner.error/1` from its parts; what looks like a secret in them is masked."""
    return _document(
        error_v1.Error(
            schema_=error_v1.SCHEMA,
            code=code,
            text=redact(text),
            hint=redact(hint) if hint is not None else None,
            exit_code=int(exit_code),
        )
    )


def event_document(event: Event) -> Document:
    """`planner.event/1`. Numbers in `data` that are not finite become null."""
    return _document(
        event_v1.Event(
            schema_=event_v1.SCHEMA,
            seq=event.seq,
            ts=event.ts,
            run_id=event.run_id,
            type=event.type,
            data={key: finite(value) for key, value in event.data.items()},
        )
    )


def probe_document(probe: domain.ProbeResult) -> Document:
    """One of `probes[]`, as events carry it too."""
    return _document(parts.probe(probe))


def run_document(view: RunView) -> Document:
    """`planner.run/1`."""
    summary, plan = view.summary, view.plan
    option = plan.option
    checkpoint = None
    if view.last_checkpoint_at is not None:
        checkpoint = run_v1.Checkpoint(
            at=view.last_checkpoint_at,
            bytes=view.last_checkpoint_bytes,
            step=view.last_checkpoint_step,
        )
    return _document(
        run_v1.Run(
            schema_=run_v1.SCHEMA,
            schema_minor=run_v1.MINOR,
            run_id=summary.id,
            name=summary.name,
            job=plan.job.name,
            state=summary.state.value,
            reason=summary.reason,
            created_at=summary.created_at,
            started_at=summary.started_at,
            ended_at=summary.ended_at,
            estimate_id=plan.estimate_id,
            option_id=option.id,
            resources=parts.resources(option.resources),
            knobs=parts.knobs(option.knobs),
            controller=plan.controller,
            attempts=view.attempts,
            supervisor_alive=summary.supervisor_alive,
            progress=_progress(view),
            money=_money(view),
            time=_timing(view),
            predicted=run_v1.Predicted(
                total_s=parts.quantiles(summary.predicted_total_s),
                total_interval_s=parts.interval(option.total_interval),
                cost_usd=parts.quantiles(summary.predicted_cost_usd),
                cost_interval_usd=parts.interval(option.cost_interval),
                within_interval=summary.within_interval,
            ),
            last_checkpoint=checkpoint,
            metrics={name: number(value) for name, value in view.metrics.items()},
            decisions=[_same(run_v1.Decision, d) for d in view.decisions],
            warnings=list(view.warnings),
            in_force=_in_force(view),
            adjustments=[_same(run_v1.Adjustment, change) for change in view.adjustments],
        )
    )


def adjust_document(view: RunView, expectation: Expectation) -> Document:
    """`planner.adjust/1`: what was expected of a change, and the run after it."""
    band = expectation.samples_per_s
    return _document(
        adjust_v1.Adjust(
            schema_=adjust_v1.SCHEMA,
            schema_minor=adjust_v1.MINOR,
            expected=adjust_v1.Expected(
                what=expectation.what,
                how=expectation.how,
                why=expectation.why or None,
                basis=expectation.basis,
                samples_per_s_before=number(expectation.samples_per_s_before),
                samples_per_s=None
                if band is None
                else adjust_v1.Band(lo=band.lo, mid=band.mid, hi=band.hi),
                usd_per_h_before=expectation.usd_per_h_before,
                usd_per_h=expectation.usd_per_h,
                peak_usd_per_h=expectation.peak_usd_per_h,
                left_before_s=number(expectation.left_before_s),
                left_s=number(expectation.left_s),
                cost_at_end_before_usd=number(expectation.cost_at_end_before_usd),
                cost_at_end_usd=number(expectation.cost_at_end_usd),
                downtime_s=number(expectation.downtime_s),
                stall_s=number(expectation.stall_s),
                asks=list(expectation.asks),
                dearer=expectation.dearer,
                notes=list(expectation.notes),
            ),
            outcome=next(
                (
                    _same(run_v1.Adjustment, change)
                    for change in view.adjustments
                    if change.command is not None and change.command == expectation.command
                ),
                None,
            ),
            run=run_v1.Run.model_validate(run_document(view)),
        )
    )


def run_list_document(runs: Iterable[RunSummary]) -> Document:
    """`planner.runs/1`."""
    return _document(
        run_v1.RunList(
            schema_=run_v1.LIST_SCHEMA,
            schema_minor=run_v1.MINOR,
            runs=[
                run_v1.RunLine(
                    run_id=run.id,
                    name=run.name,
                    state=run.state.value,
                    reason=run.reason,
                    created_at=run.created_at,
                    started_at=run.started_at,
                    ended_at=run.ended_at,
                    option=run.option_text,
                    progress=clip(run.progress),
                    spent_usd=run.spent_usd,
                    budget_usd=run.budget_usd,
                    total_s=run.total_s,
                    predicted_total_s=parts.quantiles(run.predicted_total_s),
                    predicted_cost_usd=parts.quantiles(run.predicted_cost_usd),
                    late=run.late,
                    within_interval=run.within_interval,
                    supervisor_alive=run.supervisor_alive,
                )
                for run in runs
            ],
        )
    )


def comparison_document(comparison: Comparison) -> Document:
    """`planner.comparison/1`."""
    return _document(
        house_v1.Comparison(
            schema_="planner.comparison/1",
            subjects=list(comparison.subjects),
            same_work=comparison.same_work,
            differences=list(comparison.differences),
            rows=[
                house_v1.Row(
                    name=row.name,
                    unit=row.unit,
                    values=[v if isinstance(v, str) else number(v) for v in row.values],
                    change=number(row.change),
                )
                for row in comparison.rows
            ],
        )
    )


def doctor_document(checks: Iterable[Check]) -> Document:
    """`planner.doctor/1`."""
    listed = [_same(house_v1.Check, check) for check in checks]
    ok = all(check.state != "fail" for check in listed)
    return _document(house_v1.Doctor(schema_="planner.doctor/1", ok=ok, checks=listed))


def clean_document(leftovers: Iterable[Leftover], *, removed: bool) -> Document:
    """`planner.clean/1`."""
    listed = [_same(house_v1.Leftover, left) for left in leftovers]
    return _document(house_v1.Clean(schema_="planner.clean/1", removed=removed, leftovers=listed))


def config_document(settings: Iterable[tuple[str, Any, str]]) -> Document:
    """`planner.config/1` from (name, value, source)."""
    return _document(
        house_v1.Config(
            schema_="planner.config/1",
            settings=[
                house_v1.Setting(name=name, value=value, source=source)
                for name, value, source in settings
            ],
        )
    )


def _progress(view: RunView) -> run_v1.Progress:
    return run_v1.Progress(
        fraction=clip(view.summary.progress),
        step=view.step,
        steps_total=view.steps_total,
        epoch=view.epoch,
        epochs=view.epochs,
        samples_per_s=number(view.samples_per_s),
        loader_wait_fraction=share(view.loader_wait_fraction),
    )


def _in_force(view: RunView) -> run_v1.InForce | None:
    now = view.in_force
    if now is None:
        return None
    return run_v1.InForce(
        workers=now.workers,
        crew=list(view.crew),
        resources=parts.resources(now.resources),
        knobs=parts.knobs(now.knobs),
        memory=now.memory,
        lr_scale=now.lr_scale,
        schedule_batch=now.schedule_batch,
        checkpoint_auto=now.checkpoint_auto,
    )


def _money(view: RunView) -> run_v1.Money:
    return run_v1.Money(
        spent_usd=view.summary.spent_usd,
        budget_usd=view.summary.budget_usd,
        usd_per_h=view.usd_per_h,
        max_usd_per_h=view.plan.max_usd_per_h,
        at_end_usd=parts.quantiles_or_none(view.cost_at_end_usd),
        p_budget=share(view.p_budget),
    )


def _timing(view: RunView) -> run_v1.Timing:
    return run_v1.Timing(
        elapsed_s=max(view.elapsed_s, 0.0),
        total_s=view.summary.total_s,
        left_s=parts.quantiles_or_none(view.eta_s),
        deadline_at=view.plan.goal.deadline_at,
        p_deadline=share(view.p_deadline),
        late=view.summary.late,
    )


def _same(model: type[ModelT], value: object) -> ModelT:
    """A domain value whose wire form has the same names; any that lacks one is refused."""
    return model.model_validate(value, from_attributes=True)


def _document(model: Wire) -> Document:
    """Plain JSON values, ready to be written."""
    return {key: rounded(value) for key, value in model.model_dump(mode="json").items()}
