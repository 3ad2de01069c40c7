"""`planner doctor` and `planner clean`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation, render
from planner.cli.tables import table
from planner.core.errors import ExitCode
from planner.core.units import format_duration, format_money, parse_duration_s
from planner.services.api import Check
from runners.base import Leftover


def doctor(
    context: typer.Context,
    *,
    only: Annotated[
        str | None, typer.Option(metavar="ID,...", help="Only these checks, or families of them.")
    ] = None,
    json: command.Json = False,
) -> None:
    """Check this machine, with a fix for each failure. Exit code 4 when anything fails."""
    chosen = tuple(part.strip() for part in only.split(",") if part.strip()) if only else ()
    checks = invocation.of(context).services().doctor(chosen)
    if json:
        from planner.wire.to_wire import doctor_document

        render.document(doctor_document(checks))
    else:
        render.text(checks_text(checks))
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(int(ExitCode.ENVIRONMENT))


def checks_text(checks: Sequence[Check]) -> str:
    """Checks as a table, each fix under its check."""
    lines = []
    width = max((len(check.id) for check in checks), default=0)
    for check in checks:
        lines.append(f"{check.state:<4}  {check.id:<{width}}  {check.text}")
        if check.fix and check.state != "ok":
            lines.append(f"{'':<4}  {'':<{width}}  fix: {check.fix}")
    return "\n".join(lines)


def clean(
    context: typer.Context,
    *,
    older_than: Annotated[
        str | None, typer.Option(metavar="D", help="Only what is older than so long, e.g. 30d.")
    ] = None,
    leaked: Annotated[
        bool, typer.Option("--leaked", help="Only what runs or bills without a run that owns it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it.")] = False,
    json: command.Json = False,
) -> None:
    """Show, then remove, what planner left behind. Without --yes nothing is removed.

    Only things that carry planner's own mark are ever touched.
    """
    age_s = None if older_than is None else parse_duration_s(older_than)
    services = invocation.of(context).services()
    found = services.leftovers(leaked_only=leaked, older_than_s=age_s)
    if yes:
        services.clean(found)
    if json:
        from planner.wire.to_wire import clean_document

        render.document(clean_document(found, removed=yes))
    else:
        render.text(leftovers_text(found, datetime.now(UTC)))
        if not found and older_than is None and not leaked:
            diagnostics.say("runs that have ended are kept: --older-than 30d finds those older")
        if found and not yes:
            diagnostics.say("nothing was removed: add --yes to remove it")
        elif found:
            diagnostics.say(f"removed {len(found)}")


def leftovers_text(leftovers: Sequence[Leftover], now: datetime) -> str:
    """Leftovers by kind, with their age and what they cost an hour."""
    if not leftovers:
        return "nothing left behind"
    rows = [
        (
            left.kind,
            left.id,
            left.run_id or "-",
            format_duration((now - left.since).total_seconds()) if left.since else "-",
            f"{format_money(left.usd_per_h)}/h",
            left.text,
        )
        for left in sorted(leftovers, key=lambda left: (left.kind, left.id))
    ]
    return "\n".join(table(("kind", "id", "run", "age", "cost", "what"), rows))


APPS = {
    "doctor": command.single(doctor, "planner doctor", "planner doctor --json"),
    "clean": command.single(
        clean, "planner clean", "planner clean --older-than 30d --yes", "planner clean --leaked"
    ),
}
