"""`planner.event/1`: one line of `--ndjson`. `seq` has no gaps within one `run_id`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from planner.wire._base import Time, Wire

SCHEMA = "planner.event/1"


class Event(Wire):
    """The envelope. `data` belongs to the type; readers ignore types and keys they do not know."""

    schema_: Literal["planner.event/1"] = Field(alias="schema")
    seq: Annotated[int, Field(ge=0)]
    ts: Time
    run_id: str | None
    type: str
    data: dict[str, Any]
