"""The only writer of standard output: documents, tables, lines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any


class OutputClosed(BaseException):
    """Whoever read standard output has gone. Not an error: planner ends quietly."""


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None when it is none."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def json_text(document: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """A document as JSON: sorted keys, plain ASCII, never NaN or infinity."""
    separators = None if indent is not None else (",", ":")
    return json.dumps(
        document, sort_keys=True, allow_nan=False, indent=indent, separators=separators
    )


def document(value: Mapping[str, Any]) -> None:
    """Print one JSON document and a newline, in one write."""
    _write(json_text(value) + "\n")


def json_line(value: Mapping[str, Any]) -> None:
    """Print one line of NDJSON."""
    _write(json_text(value, indent=None) + "\n")


def text(value: str) -> None:
    """Print text, with a newline at its end."""
    if value:
        _write(value.rstrip("\n") + "\n")


def bold(value: str) -> str:
    """Emphasised on a terminal that may show it, else as it is."""
    if not is_terminal() or os.environ.get("NO_COLOR"):
        return value
    return f"\x1b[1m{value}\x1b[22m"


def _write(value: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # What a terminal's encoding cannot show must not end a command.
    data = memoryview(value.encode(encoding, errors="backslashreplace"))
    try:
        sys.stdout.flush()
        # Without Python's buffering a write to a pipe may take a part only.
        while data:
            data = data[sys.stdout.buffer.write(data) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
