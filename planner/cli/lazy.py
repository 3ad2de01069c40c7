"""The root command, which imports a command's module only when that command is called."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from planner.cli.diagnostics import Interrupted
from planner.core.errors import UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Write a job file from a command line."),
    "estimate": ("estimate", "Try the job out, then print what each option would take and cost."),
    "run": ("run", "Estimate, choose, ask, launch, and watch until it ends."),
    "status": ("status", "Show all runs, or where one run stands."),
    "attach": ("attach", "Watch a run. Never affects it."),
    "logs": ("logs", "Show a run's output."),
    "pause": ("control", "Checkpoint a run and release what it holds; the plan is kept."),
    "resume": ("control", "Continue a paused, failed or orphaned run from its last checkpoint."),
    "cancel": ("control", "Checkpoint a run, release what it holds, and end it."),
    "extend": ("extend", "Raise a run's deadline or budget."),
    "adjust": ("adjust", "Change a running job: workers, batches, memory, place."),
    "compare": ("compare", "Put runs, estimates or options side by side."),
    "doctor": ("house", "Check this machine, with a fix for each failure."),
    "clean": ("house", "Show, then remove, what planner left behind."),
    "schema": ("about", "Print a JSON Schema."),
    "config": ("config", "Show settings and where they come from."),
    "version": ("about", "Print the version."),
}
"""Name of a command, its module in `planner.cli.commands`, and its line in the help."""

_APP = "app"
"""The command that `planner` and `planner JOB.toml` stand for."""

_WITH_COMMAND = ("init", "estimate", "run")
"""Commands that take a training command after `--`."""


def takes_command(name: str | None) -> bool:
    """Whether a command may be followed by `-- CMD...`."""
    return name in _WITH_COMMAND


class LazyGroup(TyperGroup):
    """Knows its commands by name, and that a job file alone means the terminal app."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command; None when there is none of that name."""
        module = _APP if cmd_name == _APP else COMMANDS.get(cmd_name, ("", ""))[0]
        if not module:
            return None
        made = import_module(f"planner.cli.commands.{module}")
        app: typer.Typer = made.APPS[cmd_name]
        command = get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take `planner JOB.toml` for the app; else as usual."""
        first = args[0]
        if first not in COMMANDS and (first.endswith(".toml") or "/" in first):
            # Without a name of its own, so that usage and hints read `planner JOB.toml`.
            return "", self.get_command(ctx, _APP), args
        # While the shell completes a line nothing is refused: it is not finished yet.
        if first not in COMMANDS and not first.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(first, COMMANDS, n=1)
            hint = f"did you mean planner {near[0]}?" if near else "planner --help"
            raise UsageError(f'there is no command "{first}"', hint=hint)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call a command; what Ctrl-C ended is told apart from a command's own exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
