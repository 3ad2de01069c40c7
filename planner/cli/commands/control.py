"""`planner pause`, `resume` and `cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation
from planner.core.errors import NotConfirmedError
from planner.services.api import RunView, Services


def pause(
    context: typer.Context,
    *,
    run: command.Run,
    yes: command.Yes = False,
    json: command.Json = False,
) -> None:
    """Checkpoint a run and release what it holds; the plan is kept.

    Nothing is billed while it is paused. planner resume goes on from the checkpoint. A script
    without planner.sdk writes none and would lose all it has done, so it asks.
    """
    called = invocation.of(context)
    services = called.services()
    run_id = services.resolve(run)
    view = services.view(run_id)
    if view.summary.supervisor_alive and not view.keeps_progress:
        _ask_to_lose(view, called.line("--yes"), yes=yes)
    services.pause(run_id)
    _show(_settled(services, run_id), json=json)


def resume(
    context: typer.Context,
    *,
    run: command.Run,
    yes: command.Yes = False,
    detach: command.Detach = False,
    json: command.Json = False,
) -> None:
    """Continue a paused, failed or orphaned run from its last checkpoint.

    It spends money again, up to the cap that was agreed to, so it asks. Then it watches the run
    until it ends, as planner run does.
    """
    from planner.cli.following import follow

    called = invocation.of(context)
    services = called.services()
    run_id = services.resolve(run)
    services.resume(run_id, dry_run=True)
    if not yes:
        _ask_to_resume(
            services.view(run_id),
            called.line("--yes"),
            above_usd=called.settings().ui.confirm_above_usd,
        )
    services.resume(run_id)
    diagnostics.say(f"{run_id} runs on when this terminal closes: planner attach {run_id}")
    if detach:
        _show(services.view(run_id), json=json)
        return
    code = follow(services, run_id, owner=True, json=json, ndjson=False)
    if code:
        raise typer.Exit(code)


def cancel(
    context: typer.Context,
    *,
    run: command.Run,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a checkpoint.")] = False,
    json: command.Json = False,
) -> None:
    """Checkpoint a run, release what it holds, and end it."""
    services = invocation.of(context).services()
    run_id = services.resolve(run)
    services.cancel(run_id, now=now)
    _show(_settled(services, run_id), json=json)


def _ask_to_lose(view: RunView, line: str, *, yes: bool) -> None:
    """Say that a pause throws the progress away, and ask for it."""
    from planner.cli.confirm import require_terminal
    from planner.cli.tables import percent

    run = view.summary
    diagnostics.warn(
        f"{run.id} keeps no checkpoint, as its script does not use planner.sdk: a pause throws away"
        f" all it has done ({percent(run.progress)} of the work), and resume starts from the"
        " beginning"
    )
    if yes:
        return
    require_terminal("a pause that loses all progress", line)
    if diagnostics.ask("pause it all the same? [y/N] ").lower() != "y":
        raise NotConfirmedError("not paused: you said no")


def _settled(services: Services, run_id: str) -> RunView:
    from planner.cli.runtext import RESTING
    from planner.cli.watch import settle

    view = settle(services, run_id)
    if view.summary.state not in RESTING:
        diagnostics.say(f"{run_id} is still stopping: planner status {run_id}")
    return view


def _show(view: RunView, *, json: bool) -> None:
    from planner.cli.following import print_view

    print_view(view, json=json)


def _ask_to_resume(view: RunView, line: str, *, above_usd: float) -> None:
    from planner.cli.confirm import ask_to_spend, require_terminal
    from planner.core.units import format_money

    run = view.summary
    require_terminal("resuming, which spends money again,", line)
    cap = "no cap" if run.budget_usd is None else f"cap {format_money(run.budget_usd)}"
    done = f"{run.id} goes on at {100 * view.saved_progress:.0f} % of the work"
    if view.last_checkpoint_at is None:
        done = f"{run.id} has no checkpoint and starts from the beginning"
    diagnostics.say(f"{done}; spent {format_money(run.spent_usd)}, {cap}")
    rest = view.rest
    rate = format_money(view.plan.max_usd_per_h)
    question = f"go on at up to {rate}/h, {rest.text}?"
    ask_to_spend(
        question, rest.worst_usd, above_usd=above_usd, verb="resume", refused="not resumed"
    )


APPS = {
    "pause": command.single(pause, "planner pause @last"),
    "resume": command.single(
        resume, "planner resume @last", "planner resume r-7f3k --yes --detach"
    ),
    "cancel": command.single(cancel, "planner cancel r-7f3k", "planner cancel r-7f3k --now"),
}
