"""Every JSON Schema there is: of the documents, of job files and of settings."""

from __future__ import annotations

from typing import Any


def names() -> tuple[str, ...]:
    """What can be asked for."""
    from planner.wire.published import DOCUMENTS

    return (*DOCUMENTS, "job", "config")


def schema_of(name: str) -> dict[str, Any]:
    """The schema of that name."""
    if name == "job":
        from planner.config.jobfile import job_schema

        return job_schema()
    if name == "config":
        from planner.config.settings import settings_schema

        return settings_schema()
    from planner.wire.published import generate

    return generate(name)
