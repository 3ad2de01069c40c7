"""What may stand in a job's command: no shell, known placeholders, no secrets."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from planner.config.tomlfile import nearest
from planner.core.errors import ConfigError
from planner.core.redact import redact

PLACEHOLDERS = (
    "data",
    "epochs",
    "micro_batch",
    "global_batch",
    "workers",
    "loader_workers",
    "run_id",
    "checkpoint",
    "output",
    "seed",
    "precision",
    "tensor_parallel",
    "pipeline_parallel",
)
"""What a command may name between braces."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_SHELL_ONLY = re.compile(r"[|;&<>]+|\d?>+&?\d?|[|;&<>]{1,2}\S*")
_SHELL_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")
_LARGEST_SCRIPT_BYTES = 2_000_000


def split_command(command: str | Sequence[str]) -> tuple[str, ...]:
    """The argument vector of a command that was written as one text or as a list.

    Raises:
        ConfigError: Empty, a quote that is not closed, a NUL, or something only a shell knows.
    """
    if isinstance(command, str):
        try:
            argv = tuple(shlex.split(command))
        except ValueError as exc:
            raise ConfigError(
                f"cannot be split into arguments: {str(exc).lower()}",
                hint='or write a list: command = ["python", "train.py"]',
            ) from exc
        _refuse_shell(argv)
    else:
        argv = tuple(command)
    if not argv or not argv[0].strip():
        raise ConfigError("is empty", hint='write for example "python train.py --data {data}"')
    if any("\0" in argument for argument in argv):
        raise ConfigError("holds a NUL character")
    return argv


def check_placeholders(argv: Iterable[str], *, has_data: bool) -> None:
    """See that every `{placeholder}` is one that planner fills in.

    Raises:
        ConfigError: An unknown one, or `{data}` when the job names no data.
    """
    for argument in argv:
        for name in _PLACEHOLDER.findall(argument):
            if name not in PLACEHOLDERS:
                near = nearest(name, PLACEHOLDERS)
                meant = f"; did you mean {{{near}}}?" if near else ""
                valid = " ".join(f"{{{valid}}}" for valid in PLACEHOLDERS)
                raise ConfigError(f"unknown placeholder {{{name}}}{meant}", hint=f"known: {valid}")
            if name == "data" and not has_data:
                raise ConfigError(
                    "uses {data}, but the job names no data", hint='add data = "..." under [job]'
                )


def check_secrets(argv: Sequence[str]) -> None:
    """Refuse arguments that look like secrets: a command is stored, shown and listed by `ps`.

    Raises:
        ConfigError: Names the argument by its position or flag, never by its value.
    """
    for position, argument in enumerate(argv):
        flag = argument.split("=", 1)[0] if argument.startswith("-") else None
        before = argv[position - 1] if position else ""
        in_context = f"{before} {argument}" if before.startswith("-") else argument
        if redact(argument) == argument and redact(in_context) == in_context:
            continue
        named = flag or (before if before.startswith("-") else f"argument {position + 1}")
        raise ConfigError(
            f"the value of {named} looks like a secret",
            hint="take it out of the command, let the script read it from an environment "
            'variable, and name that variable under env: env = ["MY_TOKEN"]',
            code="usage.config.secret",
        )


def script_tier(argv: Sequence[str], folder: Path) -> Literal[0, 1]:
    """1 when the Python script that a command names imports the SDK, else 0."""
    script = script_path(argv, folder)
    if script is None:
        return 0
    try:
        if script.stat().st_size > _LARGEST_SCRIPT_BYTES:
            return 0
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # A script that cannot be read or parsed fails in its first probe, with its own message.
        return 0
    return 1 if any(_imports_sdk(node) for node in ast.walk(tree)) else 0


def script_path(argv: Sequence[str], folder: Path) -> Path | None:
    """The Python file that a command starts: its first `*.py` argument, or `-m module`."""
    for position, argument in enumerate(argv):
        if argument == "-m" and position + 1 < len(argv):
            base = folder.joinpath(*argv[position + 1].split("."))
            return next(
                (p for p in (base.with_name(base.name + ".py"), base / "__main__.py")
                 if p.is_file()),
                None,
            )  # fmt: skip
        if argument.endswith(".py") and "{" not in argument:
            path = folder / argument
            return path if path.is_file() else None
    return None


def _imports_sdk(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(_is_sdk(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        whole = node.module == "planner" and any(alias.name == "sdk" for alias in node.names)
        return whole or _is_sdk(node.module)
    return False


def _is_sdk(module: str) -> bool:
    return module == "planner.sdk" or module.startswith("planner.sdk.")


def _refuse_shell(argv: Sequence[str]) -> None:
    for argument in argv:
        if _SHELL_ONLY.fullmatch(argument):
            raise ConfigError(
                f'holds "{argument}", which only a shell understands; commands run without one',
                hint="put the pipeline into a script and name that, or write the command as a list "
                "if the character is meant",
            )
        if variable := _SHELL_VARIABLE.fullmatch(argument):
            name = variable.group(1).strip("{}")
            raise ConfigError(
                f'holds "{argument}", but without a shell no variable is filled in',
                hint=f'write the value, or read {name} in the script and add env = ["{name}"]',
            )
    if argv and (assignment := _ASSIGNMENT.match(argv[0])):
        name = assignment.group(1)
        raise ConfigError(
            f"starts by setting {name}, which only a shell understands",
            hint=f'export {name} before calling planner and add env = ["{name}"] under [job]',
        )
