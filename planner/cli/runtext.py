"""Runs in words: the live line, the block of one run, the table of all, the last line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from planner.cli.tables import money_range, percent, table, time_range
from planner.core import explain
from planner.core.adjust import Adjustment
from planner.core.distribution import Distribution
from planner.core.types import RunState
from planner.core.units import format_bytes, format_chance, format_duration, format_money
from planner.services.adjusttext import in_force_parts, outcome_parts
from planner.services.api import RunSummary, RunView

RESTING = frozenset(
    {
        RunState.DONE,
        RunState.FAILED,
        RunState.STOPPED_BY_CAP,
        RunState.CANCELLED,
        RunState.PAUSED,
    }
)
"""States in which nothing is held and nothing will happen by itself."""

LEAST_LEFT_S = 0.5
"""With less to go, time left is not told."""
_JUDGED_BY = ("acc", "top", "f1", "auc")
_MOST_METRICS = 4


def live_line(view: RunView) -> str:
    """Where a run stands, in one line of a terminal."""
    run = view.summary
    parts = [run.id, state_text(run), percent(run.progress)]
    if view.samples_per_s is not None:
        parts.append(f"{view.samples_per_s:.0f} samples/s")
    cap = f"/{format_money(run.budget_usd)}" if run.budget_usd is not None else ""
    parts.append(f"{format_money(run.spent_usd)}{cap}")
    left_s = _time_left(view)
    if left_s is not None:
        parts.append(f"left {time_range(left_s)}")
    if view.p_deadline is not None and run.state not in RESTING:
        parts.append(f"P(on time) {format_chance(view.p_deadline)}")
    parts += [f"{name} {value:.4g}" for name, value in headline(view)[:2]]
    return "  ".join(parts)


def last_line(view: RunView) -> str:
    """A run's outcome against what was predicted, in one line."""
    run = view.summary
    total_s = run.total_s if run.total_s is not None else view.elapsed_s
    verdict = {True: ", inside", False: ", outside", None: ""}[run.within_interval]
    parts = [
        f"{run.id} {state_text(run)}" + (", late" if run.late else ""),
        f"time {format_duration(total_s)} (predicted {time_range(run.predicted_total_s)}{verdict})",
        f"cost {format_money(run.spent_usd)} (predicted {money_range(run.predicted_cost_usd)})",
    ]
    parts += [f"{name} {value:.4g}" for name, value in headline(view)]
    return "  ".join(parts)


def headline(view: RunView) -> list[tuple[str, float]]:
    """The few metrics that a training is judged by: accuracies first, test before the others."""

    def order(item: tuple[str, float]) -> tuple[bool, bool, str]:
        name = item[0].lower()
        return not any(word in name for word in _JUDGED_BY), "test" not in name, name

    return sorted(view.metrics.items(), key=order)[:_MOST_METRICS]


def run_block(view: RunView, now: datetime) -> str:
    """Everything that `planner status RUN` tells."""
    run, option = view.summary, view.plan.option
    lines = [
        f"{run.id}  {run.name}  {state_text(run)}" + (f": {run.reason}" if run.reason else ""),
        f"option      {option.id}  {explain.label(option)}",
        f"progress    {percent(run.progress)}"
        f"  epoch {min(view.epoch + 1, view.epochs):g} of {view.epochs:g}"
        f"  step {view.step}" + (f" of {view.steps_total}" if view.steps_total else ""),
        *_in_force(view),
        f"speed       {_speed(view)}",
        f"time        {format_duration(view.elapsed_s)} of {time_range(run.predicted_total_s)}",
        *_left(view, now),
        *_deadline(view),
        f"money       {_money(view)}",
        f"checkpoint  {_checkpoint(view, now)}",
        f"supervisor  {_supervisor(run)}   attempts {view.attempts}",
    ]
    if view.metrics:
        lines.append("metrics     " + "  ".join(f"{n} {v:.4g}" for n, v in headline(view)))
    lines += [f"change      {change_line(change)}" for change in view.adjustments]
    lines += [f"decision    {d.at:%H:%M:%S} {d.action}: {d.why}" for d in view.decisions]
    lines += [f"warning     {text}" for text in view.warnings]
    if not run.supervisor_alive and run.state not in RESTING:
        lines.append(
            f"its supervisor is gone: planner resume {run.id} goes on {resumed_from(view)},"
            f" planner cancel {run.id} ends it"
        )
    return "\n".join(lines)


def change_line(change: Adjustment) -> str:
    """A change and what came of it, in one line."""
    return "  ".join((change.what, *outcome_parts(change)))


def _in_force(view: RunView) -> list[str]:
    parts = in_force_parts(view)
    return ["in force    " + ", ".join(parts)] if parts else []


def run_table(runs: Sequence[RunSummary], now: datetime) -> str:
    """All runs, newest first."""
    if not runs:
        return "no runs yet: planner run JOB.toml starts one"
    rows = []
    for run in runs:
        real = format_duration(run.total_s) if run.total_s is not None else "-"
        inside = {True: "yes", False: "no", None: "-"}[run.within_interval]
        rows.append(
            (
                run.id,
                run.name,
                f"{state_text(run)}, late" if run.late else state_text(run),
                f"{_ago(run.created_at, now)} ago",
                percent(run.progress),
                format_duration(run.predicted_total_s.p50),
                real,
                inside,
                format_money(run.spent_usd),
                run.option_text,
            )
        )
    head = (
        "run",
        "name",
        "state",
        "when",
        "done",
        "predicted",
        "real",
        "inside",
        "spent",
        "option",
    )
    return "\n".join(table(head, rows, right=(4, 5, 6, 8)))


def state_text(run: RunSummary) -> str:
    """A run's state in words; one that nobody looks after is not told as one that is."""
    words = run.state.value.replace("_", " ")
    gone = run.state not in RESTING and not run.supervisor_alive
    return f"{words} (supervisor gone)" if gone else words


def _supervisor(run: RunSummary) -> str:
    if run.supervisor_alive:
        return "alive"
    return "ended" if run.state in RESTING else "gone"


def _speed(view: RunView) -> str:
    planned = view.plan.option.throughput_samples_per_s.p50
    if view.samples_per_s is None:
        return f"-  planned {planned:.0f} samples/s"
    wait = f"  loader wait {percent(view.loader_wait_fraction)} of a step"
    change = f" ({100 * (view.samples_per_s / planned - 1):+.1f} %)" if planned > 0 else ""
    return f"{view.samples_per_s:.0f} samples/s  planned {planned:.0f}{change}{wait}"


def _money(view: RunView) -> str:
    run = view.summary
    cap = f" of {format_money(run.budget_usd)} cap" if run.budget_usd is not None else ""
    rate = f"  {format_money(view.usd_per_h)}/h now" if _held(view) else ""
    predicted = f"predicted {money_range(run.predicted_cost_usd)}"
    return f"{format_money(run.spent_usd)}{cap}{rate}  {predicted}"


def _held(view: RunView) -> bool:
    """Whether anything is held, as far as is known: a price of 0 alone does not tell."""
    return view.usd_per_h > 0 or view.summary.supervisor_alive


def _time_left(view: RunView) -> Distribution | None:
    """What is left of a run at work; None once it is less than anybody would wait for."""
    if view.eta_s is None or view.summary.state in RESTING or view.eta_s.p50 < LEAST_LEFT_S:
        return None
    return view.eta_s


def _left(view: RunView, now: datetime) -> list[str]:
    left_s = _time_left(view)
    if left_s is None:
        return []
    end = now + timedelta(seconds=left_s.p50)
    return [f"left        {time_range(left_s)}, ends about {end.astimezone(UTC):%H:%M} UTC"]


def _deadline(view: RunView) -> list[str]:
    """The deadline, with the chance to keep it as long as that is open, or what came of it."""
    at, run = view.plan.goal.deadline_at, view.summary
    if at is None:
        return []
    line = f"deadline    {at:%Y-%m-%d %H:%M} UTC"
    if run.state is RunState.DONE:
        line += ", missed" if run.late else ", kept"
    elif view.p_deadline is not None and run.state not in RESTING:
        line += f"  P(on time) {format_chance(view.p_deadline)}"
    return [line]


def _checkpoint(view: RunView, now: datetime) -> str:
    if view.last_checkpoint_at is None:
        return _no_checkpoint(view)
    step, size = view.last_checkpoint_step, view.last_checkpoint_bytes
    at = "" if step is None else f"at step {step}, "
    ago = f"{_ago(view.last_checkpoint_at, now)} ago"
    return f"{at}{ago}" + (f", {format_bytes(size)}" if size else "")


def _no_checkpoint(view: RunView) -> str:
    state = view.summary.state
    if state in (RunState.DONE, RunState.CANCELLED):
        return "none"
    if state in RESTING:
        return "none: it starts from the beginning when it is resumed"
    return "none yet" if view.keeps_progress else "none: its script keeps no checkpoint"


def resumed_from(view: RunView) -> str:
    """Where a resumed run goes on."""
    step = view.last_checkpoint_step
    return "from the beginning" if step is None else f"from step {step}"


def _ago(at: datetime, now: datetime) -> str:
    return format_duration(max((now - at).total_seconds(), 0.0))
