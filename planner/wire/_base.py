"""What all documents share: frozen, no unknown keys on our side, never NaN or infinity."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def open_form(schema: dict[str, Any]) -> None:
    """Publish the open form: minor versions may add keys. Docstrings are ours, not the reader's."""
    schema.pop("additionalProperties", None)
    schema.pop("description", None)


class Wire(BaseModel):
    """Base of every model on the wire."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        serialize_by_alias=True,
        json_schema_extra=open_form,
    )


Time = Annotated[
    datetime,
    PlainSerializer(_rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time in UTC, written as RFC 3339."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction or a probability."""

NotNegative = Annotated[float, Field(ge=0)]


def schema_of(model: type[Wire], identity: str) -> dict[str, Any]:
    """The published JSON Schema of a document."""
    return {**model.model_json_schema(), "$schema": DRAFT, "$id": identity}
