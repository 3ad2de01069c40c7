"""`planner attach`."""

from __future__ import annotations

import typer

from planner.cli import command, invocation


def attach(
    context: typer.Context,
    *,
    run: command.Run = "@last",
    json: command.Json = False,
    ndjson: command.Ndjson = False,
) -> None:
    """Watch a run. Never affects it: Ctrl-C only leaves.

    Ends with the exit codes of planner run when the run ends.
    """
    from planner.cli.following import follow

    services = invocation.of(context).services()
    run_id = services.resolve(run)
    code = follow(services, run_id, owner=False, json=json, ndjson=ndjson)
    if code:
        raise typer.Exit(code)


APPS = {"attach": command.single(attach, "planner attach @last")}
