"""The published JSON Schemas: generated from the models, committed under `schemas/`.

`python -m planner.wire.published` writes them again after a model changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.wire import adjust_v1, error_v1, estimate_v1, event_v1, house_v1, run_v1
from planner.wire._base import Wire, schema_of

FOLDER = Path(__file__).parent / "schemas"

DOCUMENTS: dict[str, tuple[type[Wire], str]] = {
    "estimate": (estimate_v1.Estimate, estimate_v1.SCHEMA),
    "error": (error_v1.Error, error_v1.SCHEMA),
    "event": (event_v1.Event, event_v1.SCHEMA),
    "run": (run_v1.Run, run_v1.SCHEMA),
    "runs": (run_v1.RunList, run_v1.LIST_SCHEMA),
    "adjust": (adjust_v1.Adjust, adjust_v1.SCHEMA),
    "comparison": (house_v1.Comparison, "planner.comparison/1"),
    "doctor": (house_v1.Doctor, "planner.doctor/1"),
    "clean": (house_v1.Clean, "planner.clean/1"),
}


def path_of(name: str) -> Path:
    """Where the schema of a document is committed."""
    return FOLDER / f"{name}.v1.json"


def generate(name: str) -> dict[str, Any]:
    """The schema of a document, from its model."""
    model, identity = DOCUMENTS[name]
    return schema_of(model, identity)


def text_of(name: str) -> str:
    """The generated schema as it is committed."""
    return json.dumps(generate(name), indent=1) + "\n"


if __name__ == "__main__":
    for document in DOCUMENTS:
        path_of(document).write_text(text_of(document), encoding="utf-8")
