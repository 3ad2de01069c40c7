"""`planner logs`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, get_args

import typer

from planner.cli import command, invocation, render
from planner.core.errors import UsageError
from planner.services.api import LogLine, LogSource, Services

LOOK_S = 0.5


def logs(
    context: typer.Context,
    *,
    run: command.Run = "@last",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends; Ctrl-C leaves.")
    ] = False,
    grep: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Only lines in which this is found.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="train|planner", help="Only what this one said.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="D", help="Only the last so long, e.g. 10m.")
    ] = None,
) -> None:
    """Show a run's output: what the training printed, and what planner did.

    Lines of the training carry the time at which planner saw them.
    """
    wanted = _filter(grep, source, since)
    services = invocation.of(context).services()
    run_id = services.resolve(run)
    cursor: Mapping[str, int] | None = None
    while True:
        resting = not follow or _rests(services, run_id)
        page = services.logs(run_id, cursor)
        cursor = page.cursor
        render.text("\n".join(_show(line) for line in wanted(page.lines)))
        if page.lines:
            continue  # a page holds a part of a long log only
        if resting:
            return
        time.sleep(LOOK_S)


def _rests(services: Services, run_id: str) -> bool:
    from planner.cli.runtext import RESTING

    summary = services.view(run_id).summary
    return summary.state in RESTING or not summary.supervisor_alive


def _show(line: LogLine) -> str:
    at = f"{line.at:%H:%M:%S} " if line.at is not None else ""
    who = "planner: " if line.source == "planner" else ""
    rank = f"[{line.rank}] " if line.rank else ""
    return f"{at}{who}{rank}{line.text}"


def _filter(
    grep: str | None, source: str | None, since: str | None
) -> Callable[[Sequence[LogLine]], list[LogLine]]:
    """Which lines are shown. Times carry over from line to line and from page to page."""
    from planner.core.units import parse_duration_s

    if source is not None and source not in get_args(LogSource):
        raise UsageError(f'--source "{source}" is not known', hint="train or planner")
    try:
        pattern = re.compile(grep) if grep is not None else None
    except re.error as error:
        raise UsageError(f'--grep "{grep}" is no regular expression: {error}') from error
    start = None
    if since is not None:
        start = datetime.now(UTC) - timedelta(seconds=parse_duration_s(since))
    last: list[datetime] = []

    def wanted(lines: Sequence[LogLine]) -> list[LogLine]:
        kept = []
        for line in lines:
            if line.at is not None:
                last[:] = [line.at]
            if start is not None and last and last[0] < start:
                continue
            if source is not None and line.source != source:
                continue
            if pattern is None or pattern.search(line.text):
                kept.append(line)
        return kept

    return wanted


APPS = {
    "logs": command.single(
        logs, "planner logs -f", "planner logs r-7f3k --grep 'loss|Error' --source train"
    )
}
