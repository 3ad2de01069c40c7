"""`planner status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from planner.cli import command, invocation, render
from planner.core.errors import UsageError


def status(
    context: typer.Context,
    *,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Run id, unique prefix, name, @last or @-2; without it all runs are listed.",
            autocompletion=command.complete_run,
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(metavar="SEQ", help="Print the run's events after this number, as NDJSON."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="List so many runs.")] = None,
    json: command.Json = False,
) -> None:
    """Show all runs, or where one run stands."""
    services = invocation.of(context).services()
    if run is None:
        if since is not None:
            raise UsageError("--since needs a run", hint="planner status RUN --since SEQ")
        runs = services.runs(limit)
        if json:
            from planner.wire.to_wire import run_list_document

            render.document(run_list_document(runs))
        else:
            from planner.cli.runtext import run_table

            render.text(run_table(runs, datetime.now(UTC)))
        return
    run_id = services.resolve(run)
    if since is not None:
        from planner.wire.to_wire import event_document

        for event in services.events(run_id, since):
            render.json_line(event_document(event))
        return
    view = services.view(run_id)
    if json:
        from planner.cli.following import print_view

        print_view(view, json=True)
    else:
        from planner.cli.runtext import run_block

        render.text(run_block(view, datetime.now(UTC)))


APPS = {
    "status": command.single(
        status,
        "planner status",
        "planner status @last --json | jq .progress.fraction",
        "planner status r-7f3k --since 41",
    )
}
