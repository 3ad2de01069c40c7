"""A plan file: an estimate as it was printed, of which only the id is trusted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from planner.core.errors import UsageError

SCHEMA = "planner.estimate/1"
_LARGEST_BYTES = 200_000_000


def estimate_id(path: Path) -> str:
    """The id of the estimate in a file; `-` reads standard input.

    Raises:
        UsageError: It cannot be read, is not JSON, or is not a `planner.estimate/1`.
    """
    try:
        if str(path) == "-":
            text = sys.stdin.read()
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LARGEST_BYTES)
        document = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the plan file {path} cannot be read: {error}",
            hint="planner estimate --json > plan.json makes one",
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{error.lineno}: this is not JSON: {error.msg}",
            hint="planner estimate --json > plan.json makes one",
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not a {SCHEMA}", hint="planner estimate --json prints one")
    found = document.get("estimate_id")
    if not isinstance(found, str):
        raise UsageError(f"{path} has no estimate_id", hint="planner estimate --json prints it")
    return found
