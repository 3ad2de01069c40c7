"""The only writer of standard error, and the map from exceptions to exit codes."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from planner.core.errors import ExitCode, PlannerError


@dataclass(slots=True)
class _Talk:
    quiet: bool = False
    verbosity: int = 0
    status: str = ""


_talk = _Talk()


class Interrupted(BaseException):
    """Ctrl-C ended a command. Raised in the place of KeyboardInterrupt, which typer swallows."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an `Exception`: nothing but `main` and clean-up should handle it."""


def configure(*, quiet: bool, verbosity: int) -> None:
    """Set how much is said: nothing but errors, or more than usual."""
    _talk.quiet, _talk.verbosity = quiet, verbosity


def verbosity() -> int:
    """How often `-v` was given."""
    return _talk.verbosity


def is_quiet() -> bool:
    """Whether only errors are told."""
    return _talk.quiet


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Talk: progress and notes, unless `--quiet`."""
    if not _talk.quiet:
        _write(text)


def warn(text: str, hint: str | None = None) -> None:
    """A warning, unless `--quiet`; what looks like a secret is masked."""
    from planner.core.redact import redact

    say(redact(f"warning: {text}" + (f"\n  {hint}" if hint else "")))


def status(text: str) -> None:
    """Replace the status line of a terminal. Empty takes it away."""
    if _talk.quiet or not is_terminal():
        return
    shown = text[: _columns() - 1]
    if shown != _talk.status:
        _raw(f"\r{shown}\x1b[K")
        _talk.status = shown


def ask(question: str) -> str:
    """Ask on the terminal and wait for a line; empty at the end of input."""
    status("")
    _raw(question)
    return sys.stdin.readline().strip()


def tell(error: PlannerError) -> None:
    """An error in words: what happened, to what, what to do next."""
    tell_text(error.text, error.hint)


def tell_text(text: str, hint: str | None = None) -> None:
    """The same for an outcome that has no exception; what looks like a secret is masked."""
    from planner.core.redact import redact

    _write(redact(f"planner: {text}" + (f"\n  {hint}" if hint else "")))


def write_report(error: BaseException, arguments: Sequence[str], folder: Path | None) -> Path:
    """Write what is needed to find a bug of ours; its path.

    The traceback carries no local variables, and what looks like a secret is masked.
    """
    from planner import __version__
    from planner.core.redact import redact

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    report = "\n".join(
        (
            f"planner {__version__}, Python {sys.version.split()[0]}, {sys.platform}",
            "arguments: " + " ".join(arguments),
            "",
            *traceback.format_exception(error, chain=True),
        )
    )
    name = f"crash-{stamp}-{os.getpid()}.txt"
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)
            path = place / name
            path.write_text(redact(report), encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue  # the next place will do
        return path
    _write(redact(report))
    return Path("standard error")


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, PlannerError):
        return int(error.exit_code)
    if isinstance(error, Interrupted):
        return int(ExitCode.INTERRUPT)
    if isinstance(error, Terminated):
        return int(ExitCode.TERM)
    return int(ExitCode.INTERNAL)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 80


def _write(text: str) -> None:
    if _talk.status:
        status("")
    _raw(text.rstrip("\n") + "\n")


def _raw(text: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    shown = text.encode(encoding, errors="backslashreplace").decode(encoding)
    try:
        sys.stderr.write(shown)
        sys.stderr.flush()
    except BrokenPipeError:
        # Nobody listens any more; what planner does must not depend on it.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
