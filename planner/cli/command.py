"""How a function becomes a command, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def make_app(**settings: Any) -> typer.Typer:
    """A Typer app with plain help and no tracebacks of its own."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=HELP_NAMES,
        **settings,
    )


def single(function: Callable[..., None], *examples: str) -> typer.Typer:
    """An app of one command, with examples under its help."""
    app = make_app()
    # The backspace keeps the lines of a paragraph as they are.
    epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
    app.command(epilog=epilog if examples else None)(function)
    return app


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """Run ids for the shell's completion, from the local state directory only."""
    from planner.cli.invocation import Invocation
    from planner.core.errors import PlannerError

    try:
        runs = Invocation().services().runs(20)
    except PlannerError:
        return []
    return [(run.id, run.name) for run in runs if run.id.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, at the end.")]
Ndjson = Annotated[bool, typer.Option("--ndjson", help="Print one JSON event per line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Detach = Annotated[bool, typer.Option("--detach", help="Launch, and do not watch.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run id, unique prefix, name, @last or @-2.",
        autocompletion=complete_run,
    ),
]
Job = Annotated[
    Path | None,
    typer.Argument(metavar="JOB", help="Job file; or a command after --. Else ./planner.toml."),
]
Deadline = Annotated[
    str | None,
    typer.Option(metavar="D", help="A duration (6h, 1h30m) or a time (17:40, 2026-11-22T08:00Z)."),
]
Budget = Annotated[str | None, typer.Option(metavar="USD", help="Hard cap on the whole run.")]
Confidence = Annotated[
    float | None,
    typer.Option(min=0.5, max=0.99, help="Chance the deadline must be kept with, e.g. 0.9."),
]
Prefer = Annotated[
    str | None, typer.Option(metavar="cost|time|risk", help="What to minimise among what is left.")
]
Where = Annotated[
    str | None,
    typer.Option(metavar="RUNNER[:POOL],...", help="Only these of the job's places."),
]
NoProbe = Annotated[bool, typer.Option("--no-probe", help="Use kept probe results only.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore kept probe results.")]
MaxProbeCost = Annotated[
    str | None, typer.Option(metavar="USD", help="Most that probing may cost.")
]
MaxProbeTime = Annotated[
    str | None, typer.Option(metavar="D", help="Most time that probing may take, e.g. 15m.")
]
