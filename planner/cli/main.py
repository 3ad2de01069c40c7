"""`planner`: parse, call one command, turn whatever happens into an exit code."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from planner import __version__
from planner.cli import diagnostics, render
from planner.cli.command import HELP_NAMES
from planner.cli.invocation import Invocation
from planner.cli.lazy import LazyGroup, takes_command
from planner.core.errors import ExitCode, PlannerError, UsageError

PIPE_CLOSED = 128 + signal.SIGPIPE
"""What a shell calls a program that a closed pipe ended."""

_GLOBAL_FLAGS = {"-q", "--quiet", "-v", "-vv", "--verbose", "--no-color", "--ascii"}
_GOAL_OPTIONS = {"--deadline", "--budget", "--confidence", "--prefer"}
_GLOBAL_VALUES = {"--state-dir", "--config"}

app = typer.Typer(
    cls=LazyGroup,
    name="planner",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
    subcommand_metavar="[JOB.toml] | COMMAND [ARGS]...",
    epilog="Exit codes: docs/exit-codes.md. JSON: docs/json.md.",
)


def _version(asked: bool) -> None:
    if asked:
        render.text(f"planner {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Settings file instead of the user's own.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder of runs, probes and estimates.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more.", show_default=False)
    ] = 0,
    no_color: Annotated[bool, typer.Option("--no-color", help="As NO_COLOR=1.")] = False,
    ascii: Annotated[bool, typer.Option("--ascii", help="Draw the app with ASCII only.")] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Open the app with everything that spends locked.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Open the app on a bundled recorded run.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan a training job before you pay for it, then keep its word while it runs.

    Without a command the terminal app opens: planner, planner JOB.toml, planner --demo.
    """
    invocation: Invocation = context.obj
    invocation.config, invocation.state_dir, invocation.ascii = config, state_dir, ascii
    diagnostics.configure(quiet=quiet, verbosity=verbose)
    if no_color:
        os.environ["NO_COLOR"] = "1"
    if invocation.command is not None and not takes_command(context.invoked_subcommand):
        raise UsageError(
            "a command after -- makes sense with init, estimate and run only",
            hint="planner estimate -- python train.py ...",
        )
    if context.invoked_subcommand is None:
        from planner.cli.commands.app import open_app

        open_app(invocation, None, read_only=read_only, demo=demo)
    elif read_only or demo:
        raise UsageError(
            "--read-only and --demo belong to the terminal app",
            hint="planner [JOB.toml] --read-only, or planner --demo",
        )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run planner and leave with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    own, command = split_command(given)
    own = globals_first(own)
    invocation = Invocation(arguments=tuple(own), command=command)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _call(own, invocation)
    except render.OutputClosed:
        code = PIPE_CLOSED
        # The interpreter flushes standard output once more; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def split_command(arguments: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Planner's own arguments, and the training command after the first `--`."""
    if "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], tuple(arguments[at + 1 :])


def globals_first(own: list[str]) -> list[str]:
    """Global options moved before the command's name, so that they may stand anywhere."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(own)
    while waiting:
        word = waiting.pop(0)
        if word in _GLOBAL_FLAGS or word.partition("=")[0] in _GLOBAL_VALUES:
            front.append(word)
            if word in _GLOBAL_VALUES:
                front += waiting[:1]
                del waiting[:1]
        else:
            rest.append(word)
    return front + rest


def _call(own: list[str], invocation: Invocation) -> int:
    try:
        returned = get_command(app).main(
            args=own, prog_name="planner", standalone_mode=False, obj=invocation
        )
    except PlannerError as error:
        return _fail(own, error)
    except typer.TyperException as error:
        return _fail(own, _usage(error))
    except (diagnostics.Interrupted, diagnostics.Terminated) as error:
        return _interrupted(own, error)
    except Exception as error:
        return _crash(own, invocation, error)
    return returned if isinstance(returned, int) else 0


def _usage(error: typer.TyperException) -> UsageError:
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "planner"
    option = getattr(error, "option_name", None)
    if path == "planner" and option in _GOAL_OPTIONS:
        hint = f"it belongs after a job file or a command: planner JOB.toml {option} ..."
    else:
        # The app has no name of its own: its path ends with a space.
        hint = f"{path}JOB.toml --help" if path.endswith(" ") else f"{path} --help"
    return UsageError(message.rstrip("."), hint=hint)


def _fail(own: list[str], error: PlannerError) -> int:
    diagnostics.tell(error)
    _print_error(own, error)
    return diagnostics.exit_code_of(error)


def _interrupted(own: list[str], error: BaseException) -> int:
    code = diagnostics.exit_code_of(error)
    word = "terminated" if isinstance(error, diagnostics.Terminated) else "interrupted"
    diagnostics.tell_text(word)
    if _wants_json(own):
        from planner.wire.to_wire import failure_document

        _print_document(own, failure_document(code=word, text=word, hint=None, exit_code=code))
    return code


def _crash(own: list[str], invocation: Invocation, error: Exception) -> int:
    folder: Path | None = None
    with suppress(Exception):  # a report about a defect must not end in another one
        folder = invocation.state_folder() / "crashes"
    path = diagnostics.write_report(error, own, folder)
    diagnostics.tell_text(
        f"internal error ({type(error).__name__}), a bug of planner's",
        f"Runs are not touched by it. Report: {path}",
    )
    _print_error(own, error)
    return int(ExitCode.INTERNAL)


def _print_error(own: list[str], error: BaseException) -> None:
    if _wants_json(own):
        from planner.wire.to_wire import error_document

        _print_document(own, error_document(error))


def _print_document(own: list[str], document: dict[str, Any]) -> None:
    if "--ndjson" in own:
        render.json_line(document)
    else:
        render.document(document)


def _wants_json(own: list[str]) -> bool:
    return "--json" in own or "--ndjson" in own


def _terminate(_signal: int, _frame: object) -> None:
    raise diagnostics.Terminated
