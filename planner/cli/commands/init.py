"""`planner init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation, render
from planner.core.errors import EnvironmentFault, UsageError

DEFAULT = Path("planner.toml")


def init(
    context: typer.Context,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; - prints it."),
    ] = DEFAULT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a job file from a command line: planner init -- python train.py --data data.

    Looks at the command and the script it names; runs nothing.
    """
    from planner.services.initjob import job_file_text

    argv = invocation.of(context).command
    if not argv:
        raise UsageError(
            "there is no command to write a job file for",
            hint="planner init -- python train.py --data data --epochs 10",
        )
    text = job_file_text(argv, Path.cwd())
    if str(output) == "-":
        render.text(text)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{output} is there already", hint="--force replaces it, -o NAME.toml writes another"
        ) from error
    except OSError as error:
        raise EnvironmentFault(f"{output} cannot be written: {error.strerror}") from error
    render.text(str(output))
    diagnostics.say(f"next: planner estimate {output}")


APPS = {"init": command.single(init, "planner init -- python train.py --data data --epochs 10")}
