"""`planner.error/1`: what a failed command prints on stdout with `--json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planner.wire._base import Wire

SCHEMA = "planner.error/1"


class Error(Wire):
    """What happened, to what, what to do next, and the exit code the command ends with."""

    schema_: Literal["planner.error/1"] = Field(alias="schema")
    code: str
    text: str
    hint: str | None
    exit_code: int
