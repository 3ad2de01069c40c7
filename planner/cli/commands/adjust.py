"""`planner adjust`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation, render
from planner.core.adjust import LEVERS, Adjustment, Expectation, parse_wish
from planner.core.adjustrules import AdjustRefusedError
from planner.core.errors import EnvironmentFault
from planner.services.api import RunView, Services

LOOK_S = 0.3
RATE_S = 20.0
"""How long after a change its new rate is waited for, before the change is told without it."""


def complete_lever(incomplete: str) -> list[str]:
    """Levers for the shell's completion."""
    return [f"{lever}=" for lever in LEVERS if lever.startswith(incomplete)]


def adjust(
    context: typer.Context,
    *,
    run: command.Run,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="LEVER=VALUE...",
            help=f"What to change: {', '.join(LEVERS)}.",
            autocompletion=complete_lever,
            show_default=False,
        ),
    ],
    allow_maths: Annotated[
        bool,
        typer.Option("--allow-maths", help="Allow what changes the mathematics: global_batch."),
    ] = False,
    lr_rule: Annotated[
        str,
        typer.Option(
            metavar="linear|sqrt|none", help="How the learning rate follows the global batch."
        ),
    ] = "linear",
    relaunch: Annotated[
        bool, typer.Option("--relaunch", help="By checkpoint and relaunch, not in flight.")
    ] = False,
    yes: command.Yes = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for what comes of it.")
    ] = False,
    json: command.Json = False,
) -> None:
    """Change a running job: workers, batches, memory, place, checkpoint interval.

    It prints what it expects, does it between two steps where the script can, and reports what came
    of it. The global batch stays unless it is changed itself. It asks where more may be spent, and
    where the job file wants to be asked. docs/adjust.md tells more.
    """
    wish = parse_wish(changes, allow_maths=allow_maths, lr_rule=lr_rule, relaunch=relaunch)
    called = invocation.of(context)
    services = called.services()
    run_id = services.resolve(run)
    expected = services.adjust(run_id, wish, dry_run=True)
    view = services.view(run_id)
    if expected.how != "nothing":
        diagnostics.say("\n".join(expectation_lines(run_id, expected)))
        if not yes and (expected.dearer or expected.asks):
            _agree(called, view, expected)
        # What was shown is what is agreed to, and not a cent above it.
        agreed = replace(wish, max_usd_per_h=expected.peak_usd_per_h)
        expected = services.adjust(run_id, agreed)
        if not no_wait:
            view = _wait_or_leave(services, run_id, expected, quiet=json)
            _require_settled(view, expected)
    _report(view, expected, json=json)


def expectation_lines(run_id: str, expected: Expectation) -> list[str]:
    """What a change is expected to do, a line for each thing."""
    from planner.services.adjusttext import expectation_rows, how_text

    head = f"{run_id}  {expected.what}   {how_text(expected)}".rstrip()
    return [head, *(f"{label:<12}{text}" for label, text in expectation_rows(expected))]


def _agree(called: invocation.Invocation, view: RunView, expected: Expectation) -> None:
    """Ask: for more money, or because the job file wants to be asked."""
    from planner.cli.confirm import ask_to_spend, require_terminal
    from planner.core.units import format_money
    from planner.services.adjusttext import asks_text, spending_text, worst_usd

    if expected.asks:
        diagnostics.say(f"{'asked':<12}{asks_text(expected)}")
    require_terminal("this change", called.line("--yes"))
    above_usd = called.settings().ui.confirm_above_usd
    worst, question = 0.0, "change it so?"
    if expected.dearer:
        worst = worst_usd(view, expected)
        rate = format_money(expected.peak_usd_per_h)
        question = f"change it so, at up to {rate}/h, {spending_text(view, expected)}?"
    ask_to_spend(question, worst, above_usd=above_usd, verb="change it", refused="not changed")


def _wait_or_leave(
    services: Services, run_id: str, expected: Expectation, *, quiet: bool
) -> RunView:
    """The same as `_wait`; whoever interrupts it is told that the change goes on all the same."""
    try:
        return _wait(services, run_id, expected, quiet=quiet)
    except (KeyboardInterrupt, diagnostics.Terminated):
        diagnostics.say(
            f"{run_id} {expected.what}: no longer waited for; the change goes on, and"
            f" planner status {run_id} shows what comes of it"
        )
        raise


def _wait(services: Services, run_id: str, expected: Expectation, *, quiet: bool) -> RunView:
    """The run once it is known what came of the change, or nobody works on it any more.

    Unless `quiet` it is said when the change is made, as its new rate takes a while to measure.
    """
    from planner.cli.runtext import RESTING

    done_s: float | None = None
    while True:
        view = services.view(run_id)
        outcome = outcome_of(view, expected)
        settled = outcome is not None and not outcome.pending
        measuring = outcome is not None and _measuring(outcome)
        if settled and not measuring:
            return view
        run = view.summary
        if run.state in RESTING or not run.supervisor_alive:
            return view
        if outcome is not None and measuring and done_s is None:
            done_s = time.monotonic()
            if not quiet:
                diagnostics.say(_made_line(run_id, outcome))
        if done_s is not None and time.monotonic() - done_s > RATE_S:
            return view
        diagnostics.status(f"{run_id}  {expected.what}  {_stage(outcome)}")
        time.sleep(LOOK_S)


def _measuring(outcome: Adjustment) -> bool:
    """Whether a change was made whose new rate is still to come. One without a step made none."""
    made = outcome.state == "done" and outcome.step is not None
    return made and outcome.samples_per_s is None


def _made_line(run_id: str, outcome: Adjustment) -> str:
    at = "" if outcome.step is None else f" at step {outcome.step}"
    return f"{run_id} {outcome.what}: made{at}; measuring the new rate"


def _require_settled(view: RunView, expected: Expectation) -> None:
    """Raise unless it is known what came of a change that was waited for.

    Raises:
        EnvironmentFault: The wait ended before that: nobody works on the run any more.
    """
    from planner.services.adjusttext import unsettled_parts

    outcome = outcome_of(view, expected)
    if outcome is not None and not outcome.pending:
        return
    diagnostics.status("")
    text, hint, code = unsettled_parts(view)
    raise EnvironmentFault(f"{view.summary.id} {expected.what}: {text}", hint=hint, code=code)


def _stage(outcome: Adjustment | None) -> str:
    if outcome is None or outcome.state == "waiting":
        return "asked for"
    return "going on" if outcome.pending else "done; measuring the new rate"


def outcome_of(view: RunView, expected: Expectation) -> Adjustment | None:
    """What became of a change that was asked for; None before the supervisor has heard of it."""
    found = [c for c in view.adjustments if c.command and c.command == expected.command]
    return found[0] if found else None


def _report(view: RunView, expected: Expectation, *, json: bool) -> None:
    """Print what came of it.

    Raises:
        AdjustRefusedError: The supervisor refused it.
        EnvironmentFault: It could not be done; the job goes on as it was.
    """
    from planner.cli.runtext import RESTING

    diagnostics.status("")
    outcome, run_id = outcome_of(view, expected), view.summary.id
    if outcome is not None and outcome.state == "refused":
        raise AdjustRefusedError(f"{run_id}: {outcome.text}", hint=f"planner status {run_id}")
    if outcome is not None and outcome.state == "not_done":
        other = "; --relaunch does it by checkpoint and relaunch"
        helps = outcome.how == "in_flight" and view.summary.state not in RESTING
        raise EnvironmentFault(
            f"{run_id}: {outcome.what}: {outcome.text}",
            hint=f"planner logs {run_id} tells more" + other * helps,
            code="adjust.not_done",
        )
    if json:
        from planner.wire.to_wire import adjust_document

        render.document(adjust_document(view, expected))
    elif expected.how == "nothing":
        render.text(f"{run_id} {expected.what}")
    elif outcome is None or outcome.pending:
        render.text(f"{run_id} {expected.what}: asked for; planner status {run_id} shows it")
    else:
        render.text(f"{run_id} {outcome.what}: {outcome.text}")


APPS = {
    "adjust": command.single(
        adjust,
        "planner adjust @last workers=2",
        "planner adjust r-7f3k micro_batch=64 loader_workers=4",
        "planner adjust r-7f3k move=local:gpu:1 --yes",
        "planner adjust r-7f3k global_batch=512 --allow-maths --lr-rule sqrt",
    )
}
