"""`planner run`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from planner.cli import command, diagnostics, invocation
from planner.cli.invocation import Invocation
from planner.core.errors import (
    ConfigError,
    InfeasibleError,
    NotFoundError,
    UsageError,
)
from planner.core.job import Goal, JobSpec
from planner.core.plan import ControllerMode
from planner.core.types import EstimateResult, Option
from planner.services.api import EstimateRequest, LaunchRequest, Services

FRESH_S = 600.0
"""An estimate, and the prices in it, may be reused for so long."""
_NO_CHECKPOINT = (
    "checkpoint  none: without planner.sdk in its script this run cannot be paused or resumed"
    " midway; whatever stops it, it starts from the beginning"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    """How the run is shown."""

    json: bool
    ndjson: bool
    detach: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be launched, as it was typed; None leaves it to the plan."""

    name: str | None
    option: str | None
    max_usd_per_h: float | None
    controller: ControllerMode
    retries: int | None
    yes: bool


def run(
    context: typer.Context,
    *,
    job: command.Job = None,
    deadline: command.Deadline = None,
    budget: command.Budget = None,
    confidence: command.Confidence = None,
    prefer: command.Prefer = None,
    where: command.Where = None,
    option: Annotated[
        str | None, typer.Option(metavar="ID", help="This option instead of the recommended one.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What planner estimate --json printed; - reads stdin."),
    ] = None,
    max_price: Annotated[
        str | None, typer.Option(metavar="USD", help="Highest price per hour; else the one shown.")
    ] = None,
    controller: Annotated[
        str,
        typer.Option(
            metavar="guarded|suggest|auto|off",
            help="Who may adjust the run. Today only the guard of deadline and budget acts,"
            " in every mode.",
        ),
    ] = "guarded",
    name: Annotated[
        str | None, typer.Option(help="Name of the run; a second run of a live name attaches.")
    ] = None,
    retry: Annotated[
        int | None, typer.Option(min=0, help="How often a failed attempt is started again.")
    ] = None,
    yes: command.Yes = False,
    detach: command.Detach = False,
    no_probe: command.NoProbe = False,
    max_probe_cost: command.MaxProbeCost = None,
    max_probe_time: command.MaxProbeTime = None,
    json: command.Json = False,
    ndjson: command.Ndjson = False,
) -> None:
    """Estimate, choose, ask, launch, and watch until it ends.

    A supervisor process owns the run: closing this terminal does nothing to it. The budget is a
    hard cap; the run is stopped with a checkpoint before it is broken.
    """
    from planner.cli.jobs import GoalFlags, goal_of, read_job, request_of

    if json and ndjson:
        raise UsageError("--json and --ndjson were both given", hint="give one of them")
    wish = _Wish(
        name=_checked(name),
        option=option,
        max_usd_per_h=_highest_price(max_price),
        controller=_controller(controller),
        retries=retry,
        yes=yes,
    )
    called = invocation.of(context)
    output = _Output(json=json, ndjson=ndjson, detach=detach)
    flags = GoalFlags(deadline=deadline, budget=budget, confidence=confidence, prefer=prefer)
    services = called.services()
    if plan is None:
        spec = read_job(called, job, where)
        goal = goal_of(spec.goal, flags)
        request = request_of(
            spec, goal, no_probe=no_probe, max_cost=max_probe_cost, max_time=max_probe_time
        )
        if not _attached(services, name or spec.name, wish, goal, output):
            _launch(
                called, services, _estimated(services, spec, goal, request, output), wish, output
            )
    elif job is not None or called.command is not None:
        raise UsageError("--plan holds its own job", hint="leave the job file or the command out")
    else:
        result = _planned(services, plan)
        goal = goal_of(result.goal, flags)
        if not _attached(services, name or result.job.name, wish, goal, output, planned=result):
            if flags.given:
                result = services.rescore(result, goal)
            _warn(result)
            _launch(called, services, result, wish, output)


def _warn(result: EstimateResult) -> None:
    """What to bear in mind with a kept estimate."""
    from planner.cli.estimating import tell_warnings

    tell_warnings(result)


def _launch(
    called: Invocation, services: Services, result: EstimateResult, wish: _Wish, output: _Output
) -> None:
    """Choose, ask, launch, and watch."""
    chosen = _choose(result, wish.option)
    pin = chosen.price.usd_per_h if wish.max_usd_per_h is None else wish.max_usd_per_h
    _agree(called, result, chosen, pin, yes=wish.yes)
    run_id = services.launch(
        LaunchRequest(
            estimate=result,
            option_id=chosen.id,
            name=wish.name,
            max_usd_per_h=pin,
            controller=wish.controller,
            retries=wish.retries,
        )
    )
    diagnostics.say(f"{run_id} runs on when this terminal closes: planner attach {run_id}")
    _follow(services, run_id, output)


# ---- plan --------------------------------------------------------------------------------------


def _estimated(
    services: Services, job: JobSpec, goal: Goal, request: EstimateRequest, output: _Output
) -> EstimateResult:
    """A fresh enough estimate of this job, or a new one."""
    from planner.cli.estimating import make_estimate, no_evidence, tell_warnings
    from planner.cli.progress import sink
    from planner.core.units import format_duration

    kept = services.latest_estimate(job)
    if kept is not None and kept.options:
        age_s = (datetime.now(UTC) - kept.created_at).total_seconds()
        if age_s <= FRESH_S:
            diagnostics.say(f"using {kept.id}, made {format_duration(age_s)} ago")
            result = services.rescore(kept, goal)
            _warn(result)
            return result
    events = sink(ndjson=output.ndjson)
    result = make_estimate(services, request, events)
    tell_warnings(result, events)
    if not result.options and not (output.json or output.ndjson):
        failure = no_evidence(result, told_to=events)
        diagnostics.tell(failure)
        raise typer.Exit(int(failure.exit_code))
    return result


def _planned(services: Services, path: Path) -> EstimateResult:
    """The kept estimate behind a printed one.

    Raises:
        UsageError: The file is no estimate.
        NotFoundError: The estimate is not kept here.
    """
    from planner.cli.planfile import estimate_id

    name = estimate_id(path)
    try:
        return services.load_estimate(name)
    except NotFoundError as error:
        raise NotFoundError(
            f"{path}: its estimate {name} is not kept in this state directory",
            hint="run planner estimate here, or give the --state-dir it was made with",
        ) from error


def _choose(result: EstimateResult, wanted: str | None) -> Option:
    """The option that was asked for by id or unique prefix, or the recommended one."""
    from planner.cli.estimating import no_evidence

    if not result.options:
        raise no_evidence(result)
    if wanted is None:
        pick = result.option(result.recommendation.option_id or "")
        if pick is None:
            raise InfeasibleError(
                result.recommendation.text,
                hint=f"loosen the goal, or take it all the same: --option {result.options[0].id}",
            )
        return pick
    found = [o for o in result.options if o.id == wanted] or [
        o for o in result.options if o.id.startswith(wanted)
    ]
    if len(found) != 1:
        what = "no option" if not found else "more than one option"
        ids = ", ".join(o.id for o in (found or result.options)[:8])
        raise NotFoundError(f'{what} of {result.id} goes by "{wanted}"', hint=f"one of: {ids}")
    return found[0]


def _checked(name: str | None) -> str | None:
    from planner.config.paths import check_name

    try:
        return None if name is None else check_name(name)
    except ConfigError as error:
        raise UsageError(f"--name {error.text}", hint=error.hint) from error


def _highest_price(max_price: str | None) -> float | None:
    """The highest price per hour that the user accepts; None takes the option's own."""
    from planner.core.units import parse_money_usd

    return None if max_price is None else parse_money_usd(max_price, allow_zero=True)


def _controller(text: str) -> ControllerMode:
    if text not in get_args(ControllerMode):
        raise UsageError(f'--controller "{text}" is not known', hint="guarded, suggest, auto, off")
    return cast(ControllerMode, text)


def _agree(
    called: Invocation, result: EstimateResult, chosen: Option, pin: float, *, yes: bool
) -> None:
    from planner.cli.confirm import confirm, plan_text, require_terminal

    diagnostics.say(plan_text(result, chosen, pin))
    if result.job.tier == 0:
        diagnostics.say(_NO_CHECKPOINT)
    if yes:
        return
    require_terminal("a launch", called.line("--yes"))
    confirm(result, chosen, above_usd=called.settings().ui.confirm_above_usd)


# ---- watch -------------------------------------------------------------------------------------


def _attached(
    services: Services,
    name: str,
    wish: _Wish,
    goal: Goal,
    output: _Output,
    *,
    planned: EstimateResult | None = None,
) -> bool:
    """Whether a run of that name was alive already; it was then watched to its end.

    Raises:
        UsageError: It does not keep to what is asked for now.
    """
    from planner.cli.runtext import RESTING

    for summary in services.runs():
        if summary.name == name and summary.state not in RESTING and summary.supervisor_alive:
            _join(services, summary.id, wish, goal, planned)
            _follow(services, summary.id, output, said="attached, not launched")
            return True
    return False


def _join(
    services: Services, run_id: str, wish: _Wish, goal: Goal, planned: EstimateResult | None
) -> None:
    """See that a run may stand for the one that is asked for, and tell where it differs."""
    from planner.services.runs.joining import Asked, looser, require_same

    plan, option = services.view(run_id).plan, wish.option
    if option is None and planned is not None:
        option = planned.recommendation.option_id
    require_same(
        plan,
        Asked(
            goal=goal,
            option_id=option,
            fingerprint=None if planned is None else planned.work.fingerprint,
            max_usd_per_h=wish.max_usd_per_h,
        ),
    )
    diagnostics.say(f"{run_id} of this name is running already: attaching, nothing is launched")
    differences = looser(plan, goal)
    if differences:
        diagnostics.warn(
            f"{run_id} keeps its own limits: {'; '.join(differences)}",
            f"planner extend {run_id} --deadline +D --budget +USD raises them",
        )


def _follow(services: Services, run_id: str, output: _Output, *, said: str = "launched") -> None:
    """Watch a run to its end, print what came of it, and leave with its exit code."""
    from planner.cli.following import follow, print_view

    if output.detach:
        print_view(services.view(run_id), json=output.json or output.ndjson, said=said)
        return
    code = follow(services, run_id, owner=True, json=output.json, ndjson=output.ndjson)
    if code:
        raise typer.Exit(code)


APPS = {
    "run": command.single(
        run,
        "planner run job.toml --deadline 6h --budget 40",
        "planner run --plan plan.json --option o3k7f2m --yes --detach --json",
        "planner run --name nightly --yes -- python train.py --data data",
    )
}
