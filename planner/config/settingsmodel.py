"""The settings a person can make, with their defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from planner.config.validation import Table, unit
from planner.core.units import parse_money_usd


def _amount(value: object) -> float:
    if isinstance(value, str | int | float):
        return parse_money_usd(value, allow_zero=True)
    return parse_money_usd(str(value))


class UiTable(Table):
    """`[ui]`: looks and manners of the terminal app."""

    theme: str = Field("planner-dark", description="planner-dark, -light, -contrast, or Textual's.")
    ascii: bool = Field(False, description="Draw with ASCII characters only.")
    confirm_above_usd: Annotated[
        float,
        BeforeValidator(unit(_amount)),
        WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
    ] = Field(10.0, description="Worst cost above which the cap must be typed to confirm.")
    read_only: bool = Field(False, description="Start with everything that changes a run locked.")


class SettingsTable(Table):
    """All settings; `[settings]` of `./planner.toml`, or the user's settings file as a whole."""

    ui: UiTable = UiTable()
    keymap: dict[str, str] = Field({}, description="Keys by name of action.")
