"""The small documents: comparison, doctor, clean, config."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from planner.wire._base import NotNegative, Time, Wire


class Row(Wire):
    """One quantity, one value per subject. `change` is the last against the first, as a share."""

    name: str
    unit: str
    values: list[float | str | None]
    change: float | None


class Comparison(Wire):
    """Runs, estimates or options side by side; `differences` says where the work differs."""

    schema_: Literal["planner.comparison/1"] = Field(alias="schema")
    subjects: list[str]
    same_work: bool
    differences: list[str]
    rows: list[Row]


class Check(Wire):
    """One check of the environment, with a fix when it is not ok."""

    id: str
    state: Literal["ok", "warn", "fail", "skip"]
    text: str
    fix: str | None


class Doctor(Wire):
    """The document of `planner doctor --json`."""

    schema_: Literal["planner.doctor/1"] = Field(alias="schema")
    ok: bool
    checks: list[Check]


class Leftover(Wire):
    """Something of planner's that still exists."""

    kind: str
    id: str
    run_id: str | None
    text: str
    since: Time | None
    usd_per_h: NotNegative


class Clean(Wire):
    """The document of `planner clean --json`. `removed` is false in a dry run."""

    schema_: Literal["planner.clean/1"] = Field(alias="schema")
    removed: bool
    leftovers: list[Leftover]


class Setting(Wire):
    """One effective setting and where it came from."""

    name: str
    value: Any
    source: str


class Config(Wire):
    """The document of `planner config show --json`."""

    schema_: Literal["planner.config/1"] = Field(alias="schema")
    settings: list[Setting]
