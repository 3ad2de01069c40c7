"""`planner version` and `planner schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from planner import __version__
from planner.cli import command, render
from planner.core.errors import UsageError


def version() -> None:
    """Print the version."""
    render.text(f"planner {__version__}")


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A document: estimate, run, job...; without it all are listed."
        ),
    ] = None,
) -> None:
    """Print a JSON Schema.

    Draft 2020-12, of a document that planner reads or writes.
    """
    from planner.cli.schemas import names, schema_of

    if name is None:
        render.text("\n".join(names()))
        return
    if name not in names():
        raise UsageError(f'there is no schema "{name}"', hint=f"one of: {', '.join(names())}")
    render.document(schema_of(name))


APPS = {
    "version": command.single(version),
    "schema": command.single(
        schema, "planner schema", "planner schema estimate > estimate.v1.json"
    ),
}
