"""`planner [JOB.toml]`: the terminal app."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from planner.cli import command, invocation
from planner.cli.invocation import Invocation
from planner.cli.jobs import DEFAULT_JOB_FILE, GoalFlags, goal_of, read_job
from planner.core.errors import UsageError


def app(
    context: typer.Context,
    *,
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file to open.")],
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Lock everything that starts, stops or spends.")
    ] = False,
    deadline: command.Deadline = None,
    budget: command.Budget = None,
    confidence: command.Confidence = None,
    prefer: command.Prefer = None,
) -> None:
    """Open the terminal app on a job, with the job file's goal or the one given here."""
    flags = GoalFlags(deadline=deadline, budget=budget, confidence=confidence, prefer=prefer)
    open_app(invocation.of(context), job, read_only=read_only, demo=False, flags=flags)


def has_terminal() -> bool:
    """Whether there is a terminal to draw on and to read keys from."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def open_app(
    called: Invocation,
    job: Path | None,
    *,
    read_only: bool,
    demo: bool,
    flags: GoalFlags | None = None,
) -> None:
    """Run the app until the person leaves it.

    Raises:
        UsageError: There is no terminal, or the job file or a flag of the goal is wrong.
    """
    if not has_terminal():
        raise UsageError(
            "the terminal app needs a terminal",
            hint="planner --help lists the commands that work without one",
        )
    from planner.tui.app import run_app

    settings = called.settings()
    ui = settings.ui
    start = partial(
        run_app,
        read_only=read_only or ui.read_only,
        ascii=called.ascii or ui.ascii,
        theme=ui.theme,
        keymap=settings.keymap,
        confirm_above_usd=ui.confirm_above_usd,
    )
    if demo:
        from planner.services.demo import DemoServices

        recorded = DemoServices()
        start(recorded, job=recorded.job, job_path=None, demo=True)
        return
    path = job or (Path(DEFAULT_JOB_FILE) if Path(DEFAULT_JOB_FILE).is_file() else None)
    spec = None if path is None else read_job(called, path)
    goal = None if spec is None or flags is None else goal_of(spec.goal, flags)
    start(called.services(), job=spec, job_path=path, goal=goal)


APPS = {"app": command.single(app)}
