"""`planner config path`, `show` and `validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import command, invocation, render
from planner.cli.tables import table

_app = command.make_app()


@_app.callback(invoke_without_command=True)
def config(context: typer.Context) -> None:
    """Show settings and where they come from."""
    if context.invoked_subcommand is None:
        render.text(context.get_help())


@_app.command()
def path(context: typer.Context) -> None:
    """Print where the settings file and the state directory are."""
    from planner.config.locations import config_file

    called = invocation.of(context)
    render.text(f"settings  {called.config or config_file()}\nstate     {called.state_folder()}")


@_app.command()
def show(context: typer.Context, *, json: command.Json = False) -> None:
    """Print every effective setting and where it came from."""
    rows = invocation.of(context).settings().rows()
    if json:
        from planner.wire.to_wire import config_document

        render.document(config_document(rows))
    else:
        shown = [(name, repr(value), source) for name, value, source in rows]
        render.text("\n".join(table(("setting", "value", "from"), shown)))


@_app.command()
def validate(
    context: typer.Context,
    *,
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB", help="A job file to check as well.")
    ] = None,
) -> None:
    """Check the settings, and a job file when one is named. Starts nothing."""
    called = invocation.of(context)
    called.settings()
    render.text("settings: ok")
    if job is not None:
        from planner.cli.jobs import read_job

        read_job(called, job)
        render.text(f"{job}: ok")


APPS = {"config": _app}
