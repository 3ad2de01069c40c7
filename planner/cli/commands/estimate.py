"""`planner estimate`."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation, render
from planner.core.errors import ExitCode, UsageError
from planner.core.events import EventSink
from planner.core.types import EstimateResult, Option

GATES = ("infeasible", "stale", "uncalibrated")
_OLD_SOURCES = ("cache", "static")


def estimate(
    context: typer.Context,
    *,
    job: command.Job = None,
    deadline: command.Deadline = None,
    budget: command.Budget = None,
    confidence: command.Confidence = None,
    prefer: command.Prefer = None,
    where: command.Where = None,
    max_probe_cost: command.MaxProbeCost = None,
    max_probe_time: command.MaxProbeTime = None,
    no_probe: command.NoProbe = False,
    fresh: command.Fresh = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Print so many options.")] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also options that are dominated or refused, and why.")
    ] = False,
    json: command.Json = False,
    ndjson: command.Ndjson = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="infeasible|stale|uncalibrated",
            help="Exit with 3, 9 or 5 when that holds for what was found. Infeasible always does.",
        ),
    ] = None,
) -> None:
    """Try the job out, then print what each option would take and cost.

    Runs a few short real trials on a slice of the data (or uses kept ones), predicts every
    configuration, and names the best one for the goal. Spends at most --max-probe-cost.
    """
    from planner.cli.jobs import GoalFlags, goal_of, read_job, request_of

    gates = _gates(fail_on or [])
    if json and ndjson:
        raise UsageError("--json and --ndjson were both given", hint="give one of them")
    called = invocation.of(context)
    spec = read_job(called, job, where)
    flags = GoalFlags(deadline=deadline, budget=budget, confidence=confidence, prefer=prefer)
    goal, caps = goal_of(spec.goal, flags), {"max_cost": max_probe_cost, "max_time": max_probe_time}
    request = request_of(spec, goal, no_probe=no_probe, fresh=fresh, **caps)
    from planner.cli.estimating import make_estimate, tell_warnings
    from planner.cli.progress import sink

    events = sink(ndjson=ndjson)
    result = make_estimate(called.services(), request, events)
    _print(result, events, json=json, ndjson=ndjson, show_all=show_all, limit=limit)
    tell_warnings(result, events)
    code = outcome(result, gates, events)
    if code:
        raise typer.Exit(code)


def outcome(result: EstimateResult, gates: tuple[str, ...], events: EventSink) -> int:
    """The exit code of an estimate, its reason told on standard error."""
    from planner.cli.estimating import no_evidence

    pick = result.option(result.recommendation.option_id or "")
    if not result.options:
        diagnostics.tell(no_evidence(result, told_to=events))
        return int(ExitCode.PROBE)
    if pick is None:
        diagnostics.tell_text(result.recommendation.text)
        return int(ExitCode.INFEASIBLE)
    if "stale" in gates and _is_stale(pick):
        diagnostics.tell_text(
            f"only a {pick.price.source} price is known for {pick.id}, {pick.price.age_s:.0f} s old"
        )
        return int(ExitCode.STALE)
    if "uncalibrated" in gates and not pick.total_interval.calibrated:
        diagnostics.tell_text(
            f"the interval of {pick.id} was never checked against finished runs",
            "finished runs calibrate it",
        )
        return int(ExitCode.PROBE)
    return 0


def _is_stale(option: Option) -> bool:
    return option.price.stale or option.price.source in _OLD_SOURCES


def _gates(given: list[str]) -> tuple[str, ...]:
    names = tuple(name for part in given for name in part.split(","))
    for name in names:
        if name not in GATES:
            raise UsageError(f'--fail-on "{name}" is not known', hint=", ".join(GATES))
    return names


def _print(
    result: EstimateResult,
    events: EventSink,
    *,
    json: bool,
    ndjson: bool,
    show_all: bool,
    limit: int | None,
) -> None:
    from planner.cli.progress import Stream

    if json or ndjson:
        from planner.wire.to_wire import estimate_document

        document = estimate_document(result)
        document["options"] = document["options"][:limit]
        if isinstance(events, Stream):
            events.put("estimate.completed", document)
        else:
            render.document(document)
    else:
        from planner.cli.optiontable import estimate_text

        render.text(estimate_text(result, show_all=show_all, limit=limit))


APPS = {
    "estimate": command.single(
        estimate,
        "planner estimate job.toml --deadline 6h --budget 40",
        "planner estimate job.toml --deadline 17:40 --json > plan.json",
        "planner estimate --no-probe -- python train.py --data data",
    )
}
